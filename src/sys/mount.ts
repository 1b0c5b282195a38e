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
  /** MS_* flags of {@link C}. */
  flags?: number;
  /** Comma-separated options of the file system, at most one page. */
  data?: string;
}

/** mount(2). Throws {@link SysError} with the target. */
export function mount({ source, target, type, flags = 0, data }: MountCall): void {
  const options = data === undefined ? null : Buffer.from(`${data}\0`);
  if (libc.mount(source, target, type ?? null, flags, options) < 0) throw new SysError('mount', errno(), target);
}

/**
 * Detaches every mount that is stacked on `target` (MNT_DETACH: the kernel frees a busy one when its last user closes
 * it). A path that is not a mount point, or absent, is fine.
 */
export function unmount(target: string): void {
  for (;;) {
    if (libc.umount2(target, C.MNT_DETACH | C.UMOUNT_NOFOLLOW) === 0) continue;
    const code = errno();
    if (code === EINVAL || code === ENOENT) return;
    throw new SysError('umount2', code, target);
  }
}

/** Is `path` a pinned namespace, that is a file of nsfs? */
export function isNsfs(path: string): boolean {
  try {
    return statfsSync(path).type === NSFS_MAGIC;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
}
