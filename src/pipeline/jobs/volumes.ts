import { join } from 'node:path';
import type { ImageRow } from '../../node/images/rows.ts';
import { destinationOf } from '../../node/oci/mounts.ts';
import type { ContainerRow } from '../../node/store/container.ts';
import type { JobContext } from './context.ts';

/**
 * Makes a folder for each VOLUME of the image that no mount of the request covers, and copies into it what the image
 * has at that path, owners and modes included. Returns the folders by path in the container.
 */
export async function copyUp(row: ContainerRow, image: ImageRow, ctx: JobContext): Promise<Record<string, string>> {
  const covered = new Set(row.config.mounts.map(({ containerPath }) => destinationOf(containerPath)));
  const paths = Object.keys(image.config.Volumes ?? {})
    .map(destinationOf)
    .filter((path) => !covered.has(path));
  if (paths.length === 0) return {};
  const folders: Record<string, string> = {};
  const copies: { from: string; to: string }[] = [];
  for (const [index, path] of paths.entries()) {
    const to = join(row.rootDir, 'volumes', String(index));
    folders[path] = to;
    copies.push({ from: path, to });
  }
  await ctx.pools.shim.call('copyFromImage', {
    scratch: join(row.rootDir, SCRATCH),
    mounts: await ctx.images.viewMounts(image),
    copies,
  });
  return folders;
}

/**
 * Removes the container's own folder on the disk: its volumes, and before them the image that a daemon had mounted for
 * the copy when it was killed. An absent one is fine.
 */
export function removeVolumes({ rootDir }: ContainerRow, ctx: JobContext): Promise<void> {
  return ctx.pools.shim.call('removeFolder', { path: rootDir, mountPoints: [SCRATCH] });
}

/** In the container's own folder: where the image is mounted while it is copied from. */
const SCRATCH = 'copy-up';
