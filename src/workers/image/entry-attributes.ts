/** What an archive says of a file beside its bytes: extended attributes and times. */
import { setXattr, type TimeSpec } from '../../sys/attributes.ts';
import { native } from './byte-paths.ts';
import { invalid } from './invalid.ts';
import type { TarEntry } from './tar.ts';

/** What lsetxattr(2) answers for names and values that no file can have. */
const XATTR_FAULTS = new Set(['ERANGE', 'E2BIG', 'EINVAL', 'EPERM', 'EACCES']);
const LARGE_XATTR = 1024;

/**
 * Called after chown, which removes security.capability. trusted.* is left out because an image could forge overlayfs'
 * own marks with it; user.* exists on files and folders only (xattr(7)).
 */
export function setXattrs(path: string, { type, xattrs }: TarEntry): void {
  const keepsUser = type === 'file' || type === 'directory';
  for (const [name, value] of xattrs) {
    if (name.startsWith('trusted.') || (name.startsWith('user.') && !keepsUser)) continue;
    try {
      setXattr(native(path), native(name), value);
    } catch (error) {
      const { code = '' } = error as NodeJS.ErrnoException;
      // ext4 answers ENOSPC for a value that does not fit into an inode's block, with any amount of free space.
      if (!XATTR_FAULTS.has(code) && !(code === 'ENOSPC' && value.length > LARGE_XATTR)) throw error;
      throw invalid(`the attribute ${JSON.stringify(name)} cannot be set: ${(error as Error).message}`, error);
    }
  }
}

/** Times before 1970 become 1970, because not all file systems can store them. */
export function timesOf({ atime, mtime }: TarEntry): { atime: TimeSpec; mtime: TimeSpec } {
  return { atime: since1970(atime ?? mtime), mtime: since1970(mtime) };
}

const since1970 = (time: TimeSpec) => (time.seconds < 0 ? { seconds: 0, nanoseconds: 0 } : time);
