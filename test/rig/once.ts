/**
 * What is expensive to make and the same for every test file: made by the first that asks, for all that ask after it.
 */
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { openFd } from '../../src/sys/fd.ts';
import { C, libc } from '../../src/sys/libc.ts';
import { CACHE } from './paths.ts';
import { waitFor } from './proc.ts';

const LOCK_EX = 2;
const LOCK_NB = 4;
/** As long as npm test lasts, at most: whoever makes it is beside other work. */
const PATIENCE_MS = 15 * 60_000;

/**
 * The folder `name` of the cache, filled by `make` unless it is there. Others who ask meanwhile, in this process or in
 * another, wait for it; whoever ends in the middle of it leaves it to the next. It comes into its place whole.
 */
export async function madeOnce(name: string, make: (folder: string) => Promise<void>): Promise<string> {
  const place = join(CACHE, name);
  if (existsSync(place)) return place;
  mkdirSync(CACHE, { recursive: true });
  using lock = openFd(`${place}.lock`, C.O_RDWR | C.O_CREAT);
  await waitFor(
    `whoever makes ${name}`,
    PATIENCE_MS,
    () => libc.flock(lock.number, LOCK_EX | LOCK_NB) === 0 || undefined,
  );
  if (existsSync(place)) return place;
  const folder = mkdtempSync(`${place}.`);
  try {
    await make(folder);
    renameSync(folder, place);
  } catch (error) {
    rmSync(folder, { recursive: true, force: true });
    throw error;
  }
  return place;
}
