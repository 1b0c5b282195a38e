import { release } from 'node:os';
import { join } from 'node:path';
import { overlayPath } from '../../sys/overlay.ts';
import type { LayerMount } from './snapshotters/snapshotter.ts';

/** As containerd mounts: no index, because containers share layers and no mount is exported over NFS. */
const NO_INDEX = 'index=off';

/**
 * Syncs of a container's own layer do nothing (overlayfs.rst, "Volatile mount"): a container does not survive a power
 * cut, and the kernel would write everything to the disk when the mount goes. Linux has the option from 5.10 on.
 */
const VOLATILE = isAtLeast(release(), 5, 10) ? ['volatile'] : [];

function isAtLeast(kernel: string, major: number, minor: number): boolean {
  const [own = 0, ownMinor = 0] = kernel.split('.').map(Number);
  return own > major || (own === major && ownMinor >= minor);
}

/**
 * An overlay of a writable snapshot (its `fs` and `work`) on top of the layers' folders, topmost first. `volatile` must
 * be false for a snapshot that may be mounted a second time.
 */
export function layerMounts(dirs: readonly string[], snapshot: string, volatile: boolean): LayerMount[] {
  const [upper, work] = ['fs', 'work'].map((name) => overlayPath(join(snapshot, name)));
  const writable = [`upperdir=${upper}`, `workdir=${work}`];
  return [overlay([NO_INDEX, ...(volatile ? VOLATILE : []), lower(dirs), ...writable])];
}

/** Layers alone, read-only. A single layer is a bind mount: an overlay without an upper folder needs two. */
export function viewOf(dirs: readonly string[]): LayerMount[] {
  const [only = '', ...more] = dirs;
  if (more.length > 0) return [overlay(['ro', NO_INDEX, lower(dirs)])];
  return [{ type: 'bind', source: only, target: '', options: ['rbind', 'ro'] }];
}

const overlay = (options: string[]): LayerMount => ({ type: 'overlay', source: 'overlay', target: '', options });

function lower(dirs: readonly string[]): string {
  return `lowerdir=${dirs.map(overlayPath).join(':')}`;
}
