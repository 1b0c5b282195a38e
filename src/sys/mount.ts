import { statfsSync } from 'node:fs';
import { C, errno, libc, SysError } from './libc.ts';

const NSFS_MAGIC = 0x6e736673;
const EINVAL = 22;
const ENOENT = 2;

export interface MountCall {
  source: string;
  target: string;
  /** File system type; left out for bind mounts and remounts. */
  type?: string;
  /** MS_* bits of {@link C}. */
  flags?: number;
  /** Comma-separated file system options, at most a page of them. */
  data?: string;
}

/** mount(2). Throws {@link SysError} that names the target. */
export function mount({ source, target, type, flags = 0, data }: MountCall): void {
  const options = data === undefined ? null : Buffer.from(`${data}\0`);
  if (libc.mount(source, target, type ?? null, flags, options) < 0) throw new SysError('mount', errno(), target);
}

/**
 * Detaches every mount that is stacked on `target` (MNT_DETACH: a busy one goes when its last user does).
 * A path that is no mount point, or not there, is fine: the result is the same.
 */
export function unmount(target: string): void {
  for (;;) {
    if (libc.umount2(target, C.MNT_DETACH | C.UMOUNT_NOFOLLOW) === 0) continue;
    const code = errno();
    if (code === EINVAL || code === ENOENT) return;
    throw new SysError('umount2', code, target);
  }
}

/** Is `path` a pinned namespace (a file of the kernel's nsfs)? */
export function isNsfs(path: string): boolean {
  try {
    return statfsSync(path).type === NSFS_MAGIC;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
}
