/** What Node's fs does not cover: times in nanoseconds, extended attributes, device nodes. */
import { check, errno, libc, SysError } from './libc.ts';

/** A path as text, or as bytes (without the final NUL) where it is not UTF-8. */
export type BytePath = string | Buffer;

const AT_FDCWD = -100;
const AT_SYMLINK_NOFOLLOW = 0x100;
const ENODATA = 61;
const ENOTSUP = 95;
/** XATTR_LIST_MAX of the kernel. */
const MAX_XATTR_LIST = 65_536;

/** Seconds since the epoch (negative before it), and nanoseconds that are added to them. */
export interface TimeSpec {
  seconds: number;
  nanoseconds: number;
}

const times = Buffer.alloc(32); // struct timespec[2]: access, modification

/** The same memory in halves, low ones first: no BigInt is made for each file of a layer. */
const halves = new Int32Array(times.buffer, times.byteOffset, 8);

function fill(atime: TimeSpec, mtime: TimeSpec): Buffer {
  put(0, atime.seconds);
  put(2, atime.nanoseconds);
  put(4, mtime.seconds);
  put(6, mtime.nanoseconds);
  return times;
}

function put(at: number, value: number): void {
  halves[at] = value; // the low 32 bits of it
  halves[at + 1] = Math.floor(value / 2 ** 32);
}

/** Sets the times of an open file. */
export function setTimesOf(fd: number, atime: TimeSpec, mtime: TimeSpec): void {
  check('futimens', libc.futimens(fd, fill(atime, mtime)));
}

/** Sets the times of the entry at `path`; a symbolic link is not followed. */
export function setTimes(path: BytePath, atime: TimeSpec, mtime: TimeSpec): void {
  const result = libc.utimensat(AT_FDCWD, terminated(path), fill(atime, mtime), AT_SYMLINK_NOFOLLOW);
  check('utimensat', result, shown(path));
}

/**
 * Sets an extended attribute of the entry at `path` (no link is followed). False where the file system supports none.
 */
export function setXattr(path: BytePath, name: BytePath, value: Buffer): boolean {
  if (libc.lsetxattr(terminated(path), terminated(name), value, value.length, 0) === 0) return true;
  const code = errno();
  if (code === ENOTSUP) return false;
  throw new SysError('lsetxattr', code, `${shown(name)} ${shown(path)}`);
}

/** An extended attribute of the entry at `path`, `limit` bytes at most; undefined when there is none. */
export function getXattr(path: BytePath, name: string, limit: number): Buffer | undefined {
  const value = Buffer.alloc(limit);
  const size = Number(libc.lgetxattr(terminated(path), name, value, limit));
  if (size >= 0) return value.subarray(0, size);
  const code = errno();
  if (code === ENODATA || code === ENOTSUP) return undefined;
  throw new SysError('lgetxattr', code, `${name} ${shown(path)}`);
}

/** The names of the attributes of what is at `path` itself, one byte per character. */
export function listXattrs(path: BytePath): string[] {
  const names = Buffer.alloc(MAX_XATTR_LIST);
  const size = Number(libc.llistxattr(terminated(path), names, names.length));
  if (size >= 0)
    return names
      .toString('latin1', 0, size)
      .split('\0')
      .filter((name) => name !== '');
  const code = errno();
  if (code === ENOTSUP) return [];
  throw new SysError('llistxattr', code, shown(path));
}

/** Makes a device node or FIFO; `mode` contains the type (S_IF*) and is subject to the umask. */
export function makeNode(path: BytePath, mode: number, major = 0, minor = 0): void {
  check('mknod', libc.mknod(terminated(path), mode, deviceNumber(major, minor)), shown(path));
}

/** The kernel's 32-bit dev_t in glibc's 64-bit form (makedev(3)). */
function deviceNumber(major: number, minor: number): bigint {
  const [a, b] = [BigInt(major), BigInt(minor)];
  return ((a & 0xfffff000n) << 32n) | ((a & 0xfffn) << 8n) | ((b & 0xffffff00n) << 12n) | (b & 0xffn);
}

/** The parts of a device number as stat(2) gives it (major(3), minor(3)). */
export function deviceParts(device: number): { major: number; minor: number } {
  const all = BigInt(device);
  return {
    major: Number(((all >> 8n) & 0xfffn) | ((all >> 32n) & 0xfffff000n)),
    minor: Number((all & 0xffn) | ((all >> 12n) & 0xffffff00n)),
  };
}

/** koffi appends the NUL to strings only; a Buffer needs it explicitly. */
const terminated = (path: BytePath) => (typeof path === 'string' ? path : Buffer.concat([path, Buffer.alloc(1)]));
const shown = (path: BytePath) => (typeof path === 'string' ? path : path.toString());
