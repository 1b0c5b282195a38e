/** Inode attribute flags (ioctl_iflags(2)), as chattr(1) sets them. */
import { constants } from 'node:fs';
import { openFd } from './fd.ts';
import { errno, libc, SysError } from './libc.ts';

/** _IOR('f', 1, long) and _IOW('f', 2, long); the kernel reads and writes an int behind both. */
const FS_IOC_GETFLAGS = 0x80086601;
const FS_IOC_SETFLAGS = 0x40086602;
const FS_TOPDIR_FL = 0x00020000;
const NOT_SUPPORTED = new Set([22 /* EINVAL */, 25 /* ENOTTY */, 95 /* EOPNOTSUPP */]);

/**
 * Sets FS_TOPDIR_FL on a folder: ext4's Orlov allocator then spreads its subfolders over block groups instead of
 * putting each into the group of its parent. Returns false where the file system has no such flag. Throws SysError for
 * other failures.
 */
export function spreadSubfolders(path: string): boolean {
  using folder = openFd(path, constants.O_RDONLY | constants.O_DIRECTORY);
  const flags = Buffer.alloc(8);
  if (libc.ioctl(folder.number, FS_IOC_GETFLAGS, flags) !== 0) return unsupported(path);
  const before = flags.readUInt32LE(0);
  if (before & FS_TOPDIR_FL) return true;
  flags.writeUInt32LE((before | FS_TOPDIR_FL) >>> 0, 0);
  return libc.ioctl(folder.number, FS_IOC_SETFLAGS, flags) === 0 || unsupported(path);
}

function unsupported(path: string): false {
  const code = errno();
  if (NOT_SUPPORTED.has(code)) return false;
  throw new SysError('ioctl', code, path);
}
