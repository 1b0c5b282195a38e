import { DatabaseSync } from 'node:sqlite';

/**
 * Copies what the daemon wrote from the WAL into the database file, with the fsyncs that keep it consistent after a
 * power cut. It runs in a worker, on its own connection, because an fsync may take long. PASSIVE does not wait for
 * readers or writers.
 */
export function checkpoint({ path }: { path: string }): void {
  const db = new DatabaseSync(path);
  try {
    db.exec('PRAGMA synchronous = FULL; PRAGMA wal_checkpoint(PASSIVE)');
  } finally {
    db.close();
  }
}
