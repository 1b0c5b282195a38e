import { closeSync, constants, fchmodSync, fchownSync, fstatSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { setTimesOf, type TimeSpec } from '../../sys/attributes.ts';
import { native } from './byte-paths.ts';
import { HOLE_BLOCK, isZeroes } from './holes.ts';

/** Files below this many bytes are small: they are made at once, and their only hole is all of them. */
export const SMALL = HOLE_BLOCK;

export const NEW_FILE = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
/** What open(2) gives a new file of a mode; the other bits are set afterwards. */
export const PERMISSIONS = 0o777;
const ALL_MODE_BITS = 0o7777;

/** A small file of a layer, but for its bytes. */
export interface SmallFile {
  /** Absolute, one byte per character. Its folder is there. */
  path: string;
  /** Permission bits with setuid, setgid and sticky. */
  mode: number;
  /** Undefined: those that a new file gets. */
  owner: { uid: number; gid: number } | undefined;
  atime: TimeSpec;
  mtime: TimeSpec;
}

/**
 * Makes the file, and returns the blocks of 512 bytes that it occupies. Throws Node's errors: EEXIST when the name is
 * taken; after any other a part of the file may be there.
 */
export function makeSmallFile({ path, mode, owner, atime, mtime }: SmallFile, data: Buffer): number {
  const fd = openSync(native(path), NEW_FILE, mode & PERMISSIONS);
  try {
    if (data.length > 0 && isZeroes(data)) ftruncateSync(fd, data.length);
    else for (let at = 0; at < data.length; ) at += writeSync(fd, data, at, data.length - at, at);
    if (owner) fchownSync(fd, owner.uid, owner.gid);
    setTimesOf(fd, atime, mtime);
    const found = fstatSync(fd);
    // A file mostly has been made with its mode, unless the umask or a default ACL has taken bits, or it has others
    // than open(2) gives. After chown, which clears setuid.
    if ((found.mode & ALL_MODE_BITS) !== mode) fchmodSync(fd, mode);
    return found.blocks;
  } finally {
    closeSync(fd);
  }
}
