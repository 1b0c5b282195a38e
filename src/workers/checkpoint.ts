import { DatabaseSync } from 'node:sqlite';

/**
 * Moves what the daemon wrote from the WAL into the database file, with the syncs that make a power cut harmless. In a worker,
 * on a connection of its own, because a sync may take as long as the disk likes. Busy readers or writers are left alone.
 */
export function checkpoint({ path }: { path: string }): void {
  const db = new DatabaseSync(path);
  try {
    db.exec('PRAGMA synchronous = FULL; PRAGMA wal_checkpoint(PASSIVE)');
  } finally {
    db.close();
  }
}
