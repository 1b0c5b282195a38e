import { check, errno, libc, SysError } from '../sys/libc.ts';
import { forLibc } from './names.ts';

const ENODATA = 61;
const ENOTSUP = 95;
const OPAQUE = 'trusted.overlay.opaque';

/** Sets an extended attribute of the thing itself, not of what it links to. False when the file system has none of that kind. */
export function setXattr(path: string, name: string, value: Buffer): boolean {
  if (libc.lsetxattr(forLibc(path), forLibc(name), value, value.length, 0) === 0) return true;
  const code = errno();
  if (code === ENOTSUP) return false;
  throw new SysError('lsetxattr', code, name);
}

/** Hides what the layers below have in this folder. Throws where the file system cannot keep the mark. */
export function makeOpaque(path: string): void {
  check('lsetxattr', libc.lsetxattr(forLibc(path), OPAQUE, Buffer.from('y'), 1, 0), OPAQUE);
}

export function isOpaque(path: string): boolean {
  const value = Buffer.alloc(1);
  const length = Number(libc.lgetxattr(forLibc(path), OPAQUE, value, 1));
  if (length >= 0) return length === 1 && value[0] === 0x79;
  const code = errno();
  if (code === ENODATA || code === ENOTSUP) return false;
  throw new SysError('lgetxattr', code, OPAQUE);
}
