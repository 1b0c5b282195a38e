import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { isSqliteFull, SluiceError } from '../../errors.ts';
import type { Codec } from './codec.ts';
import { type Row, Table } from './table.ts';

/** Bumped when a row's shape changes so that an older daemon's rows need a migration. */
const SCHEMA_VERSION = 1;

/**
 * Room kept beside the database, to be given up when the disk is full: a full node must still be emptied, and for that rows are
 * changed and deleted. New rows do not get it: whatever they would name could not be made either.
 */
const BALLAST_BYTES = 4 << 20;

/**
 * The SQLite file. This connection never syncs: a crash of the daemon loses nothing (the pages are in the kernel), and after a
 * power cut the pods are gone anyway. What must hold then is consistency: WAL frames carry checksums, so a torn tail is dropped,
 * and the checkpoint, which a worker makes with a syncing connection of its own, orders WAL before database.
 */
export class Database implements Disposable {
  readonly path: string;
  readonly #db: DatabaseSync;
  readonly #onWrite: ((seconds: number) => void) | undefined;

  constructor(path: string, onWrite?: (seconds: number) => void) {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    this.path = path;
    this.#onWrite = onWrite;
    this.#db = new DatabaseSync(path);
    this.#db.exec(`
      PRAGMA journal_mode = WAL;
      PRAGMA synchronous = OFF;
      PRAGMA wal_autocheckpoint = 0;
      PRAGMA locking_mode = NORMAL;
    `);
    const { user_version: version } = this.#db.prepare('PRAGMA user_version').get() as { user_version: number };
    if (version > SCHEMA_VERSION) {
      throw new SluiceError(
        'INTERNAL',
        `${path} was written by a newer Sluice (schema ${version}, this one knows ${SCHEMA_VERSION})`,
      );
    }
    this.#db.exec(`PRAGMA user_version = ${SCHEMA_VERSION}`);
    this.restoreBallast();
  }

  /** Takes the room back once the disk has it again; a disk that is still full is tried again later. */
  restoreBallast(): void {
    if (existsSync(this.#ballast)) return;
    try {
      writeFileSync(this.#ballast, Buffer.alloc(BALLAST_BYTES), { mode: 0o600 });
    } catch (error) {
      rmSync(this.#ballast, { force: true });
      if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
    }
  }

  get #ballast(): string {
    return `${this.path}.ballast`;
  }

  /** Runs a write that makes room for others in the end, with the ballast if need be. */
  #essential(write: () => void): void {
    try {
      write();
    } catch (error) {
      if (!isSqliteFull(error) || !existsSync(this.#ballast)) throw error;
      rmSync(this.#ballast);
      write();
    }
  }

  /** Opens a table, with its rows read into memory. */
  table<R extends Row>(name: string, codec?: Codec<R>): Table<R> {
    this.#db.exec(`CREATE TABLE IF NOT EXISTS ${name} (id TEXT PRIMARY KEY, row TEXT NOT NULL) WITHOUT ROWID`);
    const upsert = this.#db.prepare(
      `INSERT INTO ${name} (id, row) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET row = excluded.row`,
    );
    const remove = this.#db.prepare(`DELETE FROM ${name} WHERE id = ?`);
    const stored = this.#db.prepare(`SELECT row FROM ${name}`).all() as { row: string }[];
    const timed = (write: () => void) => {
      const began = performance.now();
      write();
      this.#onWrite?.((performance.now() - began) / 1000);
    };
    return new Table<R>(
      codec,
      {
        insert: (id, json) => timed(() => upsert.run(id, json)),
        update: (id, json) => timed(() => this.#essential(() => upsert.run(id, json))),
        delete: (id) => timed(() => this.#essential(() => remove.run(id))),
      },
      stored.map(({ row }) => row),
    );
  }

  [Symbol.dispose](): void {
    this.#db.close();
  }
}
