/** How the store's file is opened: by the daemon's threads, and by other processes beside it. */
import { copyFileSync, mkdtempSync, rmSync, statfsSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { pathToFileURL } from 'node:url';

/**
 * File systems where writing to a page that is mapped and has its blocks already takes new room (statfs(2): btrfs,
 * bcachefs). When there is none, by ENOSPC or a quota, the kernel ends the process with SIGBUS.
 */
const COPY_ON_WRITE = new Set([0x9123683e, 0xca451a4e]);

/**
 * What DatabaseSync takes to open the store for writing. SQLite maps the index of the WAL from a file beside the
 * database; on copy-on-write file systems it is told to keep the index in the memory of this process (VFS unix-excl,
 * https://www.sqlite.org/vfs.html), which then has the file to itself: see {@link readBeside}.
 */
export function storeLocation(path: string): string | URL {
  if (!isCopyOnWrite(path)) return path;
  const url = pathToFileURL(path);
  url.search = '?vfs=unix-excl';
  return url;
}

function isCopyOnWrite(path: string): boolean {
  try {
    return COPY_ON_WRITE.has(statfsSync(dirname(path)).type);
  } catch {
    return false; // opening it will say why
  }
}

const TRIES = 40;
const PAUSE_MS = 50;
const SQLITE_BUSY = 5;

/**
 * Reads the store from a process beside the daemon. Where the daemon has the file to itself a copy is read, which is as
 * the store was at one moment. `work` must keep nothing of the database. Throws what `work` does, errors of SQLite and
 * of the file system, and an Error for a store that is written to all the time.
 */
export function readBeside<T>(path: string, work: (db: DatabaseSync) => T): T {
  try {
    return reading(new DatabaseSync(path, { readOnly: true }), work);
  } catch (error) {
    if (((error as { errcode?: number }).errcode ?? 0) % 256 !== SQLITE_BUSY) throw error;
  }
  const folder = mkdtempSync(join(tmpdir(), 'sluice-store-'));
  try {
    const copy = join(folder, basename(path));
    for (let tries = 1; !copied(path, copy); tries++) {
      if (tries === TRIES) throw new Error(`${path} changed each time that it was copied`);
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, PAUSE_MS);
    }
    return reading(new DatabaseSync(copy), work);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function reading<T>(db: DatabaseSync, work: (db: DatabaseSync) => T): T {
  try {
    return work(db);
  } finally {
    db.close();
  }
}

/**
 * Copies the WAL and then the database. False when the WAL changed meanwhile: then a checkpoint may have moved pages
 * into the database that its copy lacks.
 */
function copied(path: string, to: string): boolean {
  const stateOf = () => {
    const stat = statSync(`${path}-wal`, { throwIfNoEntry: false, bigint: true });
    return stat ? `${stat.ino} ${stat.size} ${stat.mtimeNs}` : '';
  };
  const before = stateOf();
  rmSync(`${to}-wal`, { force: true });
  if (before !== '') copyFileSync(`${path}-wal`, `${to}-wal`);
  copyFileSync(path, to);
  return stateOf() === before;
}
