import { constants } from 'node:fs';
import { openFd } from './fd.ts';
import { libc, SysError } from './libc.ts';

const running = new Map<string, Promise<void>>();
const waiting = new Map<string, Promise<void>>();

/**
 * Writes everything of the file system at `folder` to the disk (syncfs(2)), in a thread of libuv's pool. Calls that
 * come while one runs share the next one, so that at most one thread is occupied for each folder. Throws SysError, for
 * example EIO or ENOSPC.
 */
export function syncFileSystem(folder: string): Promise<void> {
  const now = running.get(folder);
  if (!now) return begin(folder);
  let next = waiting.get(folder);
  if (!next) {
    next = now
      .catch(() => {}) // those who wait for that one get its error
      .then(() => {
        waiting.delete(folder);
        return begin(folder);
      });
    waiting.set(folder, next);
  }
  return next;
}

function begin(folder: string): Promise<void> {
  const done = syncNow(folder).finally(() => running.delete(folder));
  running.set(folder, done);
  return done;
}

async function syncNow(folder: string): Promise<void> {
  using fd = openFd(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  const code = await new Promise<number>((resolve, reject) => {
    // errno belongs to the pool's thread, where nobody reads it: a failure is reported as EIO, which it is nearly
    // always.
    libc.syncfs.async(fd.number, (error: unknown, result: number) => (error ? reject(error) : resolve(result)));
  });
  if (code !== 0) throw new SysError('syncfs', EIO, folder);
}

const EIO = 5;

const SYNC_FILE_RANGE_WRITE = 2;

/**
 * Starts writing bytes of an open file to the disk and does not wait for it (sync_file_range(2)): a later sync finds
 * less to do. A file system without it ignores the wish.
 */
export function startWriting(fd: number, offset: number, bytes: number): void {
  libc.syncFileRange(fd, offset, bytes, SYNC_FILE_RANGE_WRITE);
}
