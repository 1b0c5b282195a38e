import { DatabaseSync } from 'node:sqlite';
import { storeLocation } from './open.ts';

/** Milliseconds to wait for a write of the daemon's main thread, which takes some microseconds. */
const BUSY_MS = 1000;

/** What a checkpoint found, in pages of the WAL. */
export interface Checkpointed {
  /** Pages in the WAL. */
  wal: number;
  /** Of these, how many are in the database by now. */
  moved: number;
}

/**
 * Copies what the daemon wrote from the WAL into the database, with the syncs that keep both consistent after a power
 * cut: first the WAL, then, once all of it is copied, the database. PASSIVE waits for nobody and nobody waits for it.
 *
 * The next write after a complete checkpoint starts the WAL anew and has to sync its header
 * (src/node/store/connection.ts). This function makes that write itself, so that the daemon's main thread does not wait
 * for the disk. Only a write that comes during this sync waits for it.
 */
export function checkpoint({ path }: { path: string }): Checkpointed {
  const db = new DatabaseSync(storeLocation(path), { timeout: BUSY_MS });
  try {
    db.exec('PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0');
    const { busy, log, checkpointed } = db.prepare('PRAGMA wal_checkpoint(PASSIVE)').get() as Record<string, number>;
    const result = { wal: log ?? 0, moved: checkpointed ?? 0 };
    if (busy === 0 && result.wal > 0 && result.moved === result.wal) {
      db.prepare("INSERT OR REPLACE INTO about (name, value) VALUES ('checkpoint', ?)").run(new Date().toISOString());
    }
    return result;
  } finally {
    db.close();
  }
}
