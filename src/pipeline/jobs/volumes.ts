import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
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
    await mkdir(dirname(to), { recursive: true, mode: 0o700 });
    await mkdir(to, { recursive: true, mode: 0o755 }); // the VOLUME's mode in the container where the image has no such folder
    folders[path] = to;
    copies.push({ from: path, to });
  }
  await ctx.pools.shim.call('copyFromImage', {
    scratch: scratchOf(row),
    mounts: await ctx.images.viewMounts(image),
    copies,
  });
  return folders;
}

/** Detaches the image that a daemon had mounted for the copy when it was killed. Nothing mounted is fine. */
export async function undoCopyUp(row: ContainerRow, ctx: JobContext): Promise<void> {
  await ctx.pools.shim.call('unmountRootfs', { target: scratchOf(row) });
}

const scratchOf = ({ rootDir }: ContainerRow): string => join(rootDir, 'copy-up');
