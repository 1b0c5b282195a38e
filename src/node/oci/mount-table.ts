import type { MountPoint } from '../../sys/mountinfo.ts';

/**
 * The mount that contains `path` (absolute, without symlinks): the longest mount point that is a prefix, and of equals
 * the last.
 */
export function mountOf(table: readonly MountPoint[], path: string): MountPoint | undefined {
  let best: MountPoint | undefined;
  for (const mount of table) {
    if (isUnder(path, mount.mountPoint) && mount.mountPoint.length >= (best?.mountPoint.length ?? 0)) best = mount;
  }
  return best;
}

/** Whether `path` is `folder` or lies below it. Both must be absolute and normalised. */
export function isUnder(path: string, folder: string): boolean {
  return path === folder || path.startsWith(folder.endsWith('/') ? folder : `${folder}/`);
}
