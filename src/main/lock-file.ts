import { mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { SluiceError } from '../errors.ts';
import { type Fd, openFd } from '../sys/fd.ts';
import { C, libc } from '../sys/libc.ts';

const LOCK_EX = 2;
const LOCK_NB = 4;

/**
 * Holds the lock of a folder as long as the daemon lives; the kernel drops it with the process. Throws CONFIG_INVALID
 * when taken.
 */
export function lockFile(path: string): Fd {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  using file = openLock(path);
  if (libc.flock(file.number, LOCK_EX | LOCK_NB) < 0) {
    throw new SluiceError('CONFIG_INVALID', `another daemon uses this folder: ${path} is locked`);
  }
  return file.move();
}

/** A daemon starts on a read-only file system too; a descriptor for reading is enough for flock. */
function openLock(path: string): Fd {
  try {
    return openFd(path, C.O_RDWR | C.O_CREAT);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EROFS') throw error;
    return openFd(path, C.O_RDONLY);
  }
}
