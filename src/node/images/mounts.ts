import { join } from 'node:path';
import type { MountSpec } from '../../workers/shim/rootfs.ts';

/** As the shim's task API and the workers both take it. */
export type LayerMount = Required<MountSpec>;

/** As containerd mounts it: without an index, since containers share layers and none of them is ever exported. */
const NO_INDEX = 'index=off';

/** An overlay of a writable snapshot (its `fs` and `work`) on top of the layers' folders, topmost first. */
export function layerMounts(dirs: readonly string[], snapshot: string): LayerMount[] {
  const writable = [`upperdir=${join(snapshot, 'fs')}`, `workdir=${join(snapshot, 'work')}`];
  return [overlay([NO_INDEX, lower(dirs), ...writable])];
}

/** Layers alone, read-only; one needs no overlay, which wants two at least. */
export function viewOf(dirs: readonly string[]): LayerMount[] {
  const [only = '', ...more] = dirs;
  if (more.length > 0) return [overlay(['ro', NO_INDEX, lower(dirs)])];
  return [{ type: 'bind', source: only, target: '', options: ['rbind', 'ro'] }];
}

const overlay = (options: string[]): LayerMount => ({ type: 'overlay', source: 'overlay', target: '', options });

/** ":" separates layers, so one in a name is escaped (overlayfs.rst of the kernel). */
function lower(dirs: readonly string[]): string {
  return `lowerdir=${dirs.map((dir) => dir.replace(/[\\:]/g, '\\$&')).join(':')}`;
}
