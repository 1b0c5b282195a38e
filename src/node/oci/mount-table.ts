import type { MountPoint } from '../../sys/mountinfo.ts';

/** The mount that holds `path` (absolute, without symlinks): the longest mount point above it, the topmost of several. */
export function mountOf(table: readonly MountPoint[], path: string): MountPoint | undefined {
  let best: MountPoint | undefined;
  for (const mount of table) {
    if (isUnder(path, mount.mountPoint) && mount.mountPoint.length >= (best?.mountPoint.length ?? 0)) best = mount;
  }
  return best;
}

/** Is `path` the folder itself or below it? Both absolute and clean. */
export function isUnder(path: string, folder: string): boolean {
  return path === folder || path.startsWith(folder.endsWith('/') ? folder : `${folder}/`);
}
