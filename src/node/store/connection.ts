/**
 * One open SQLite file that can be written. Its rules for a power cut:
 *
 * - This connection is `synchronous = NORMAL`. It appends to the WAL without a sync, so a change is as cheap as a write into the
 *   page cache; a crash of the daemon loses nothing, a power cut the changes since the last checkpoint, with the pods.
 * - What NORMAL does sync is the WAL's header when the WAL starts anew after a complete checkpoint. Without that (OFF) a power cut can
 *   leave the old header in front of a mixture of old and new frames: SQLite then replays a part of old transactions into a database
 *   that is newer, which is corruption (SQLite's ticket ff5be73dee, and the comment on it in wal.c, sqlite3WalFrames).
 * - A checkpoint syncs the WAL before the database is touched and the database before the WAL may start anew. A worker makes it, and
 *   also the first write of the new WAL with the header's sync (src/workers/store/checkpoint.ts), so that main waits for no disk.
 */
import { accessSync, chmodSync, closeSync, constants, fsyncSync, openSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync, type StatementSync } from 'node:sqlite';
import { pathToFileURL } from 'node:url';
import { explain, SluiceError } from '../../errors.ts';
import { VERSION } from '../../version.ts';
import { storeLocation } from '../../workers/store/open.ts';
import { MIGRATIONS, type Migrations, newestVersion } from './migrations.ts';
import { BrokenStore, isDiskTrouble } from './sqlite-errors.ts';

/** Milliseconds that a write waits for the worker's first write of a new WAL: the sync of one page. */
const BUSY_MS = 1000;
const MODE = 0o600;

/** A row as it is stored. */
export interface StoredRow {
  id: string;
  row: string;
}

export interface ConnectionOptions {
  path: string;
  /** Names of the tables of rows; missing ones are made. */
  tables: readonly string[];
  migrations?: Migrations;
}

export class Connection implements Disposable {
  readonly #db: DatabaseSync;
  readonly #tables = new Map<string, { put: StatementSync; remove: StatementSync }>();
  /** The file had no store in it: this is a new one. */
  readonly isNew: boolean;

  /** Throws BrokenStore or an error of SQLite's, see sqlite-errors.ts; CONFIG_INVALID for a store of a newer Sluice. */
  constructor({ path, tables, migrations = MIGRATIONS }: ConnectionOptions) {
    makeFile(path);
    this.#db = new DatabaseSync(storeLocation(path), { timeout: BUSY_MS });
    try {
      this.#db.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0');
      checkIntegrity(this.#db);
      this.isNew = this.transaction(() => bringUpToDate(this.#db, path, migrations));
      for (const name of tables) {
        makeTable(this.#db, name);
        this.#tables.set(name, {
          put: this.#db.prepare(
            `INSERT INTO ${name} (id, row) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET row = excluded.row`,
          ),
          remove: this.#db.prepare(`DELETE FROM ${name} WHERE id = ?`),
        });
      }
      // SQLite gives these two the mode of the database, but an earlier Sluice may have made them.
      for (const suffix of ['-wal', '-shm']) setMode(path + suffix);
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  rows(table: string): StoredRow[] {
    return rowsOf(this.#db, table);
  }

  put(table: string, id: string, row: string): void {
    this.#tables.get(table)?.put.run(id, row);
  }

  remove(table: string, id: string): void {
    this.#tables.get(table)?.remove.run(id);
  }

  /** Makes `rows` the only ones of a table. */
  replace(table: string, rows: Iterable<StoredRow>): void {
    this.#db.exec(`DELETE FROM ${table}`);
    for (const { id, row } of rows) this.put(table, id, row);
  }

  /** Runs `work`, in which no write waits for another connection's lock. */
  withoutWaiting(work: () => void): void {
    this.#db.exec('PRAGMA busy_timeout = 0');
    try {
      work();
    } finally {
      this.#db.exec(`PRAGMA busy_timeout = ${BUSY_MS}`);
    }
  }

  /** All of what `work` writes, or nothing of it. */
  transaction<T>(work: () => T): T {
    this.#db.exec('BEGIN IMMEDIATE');
    try {
      const result = work();
      this.#db.exec('COMMIT');
      return result;
    } catch (error) {
      if (this.#db.isTransaction) this.#db.exec('ROLLBACK');
      throw error;
    }
  }

  /** The last connection to close makes a checkpoint, with its syncs, and removes the WAL. */
  [Symbol.dispose](): void {
    if (this.#db.isOpen) this.#db.close();
  }
}

/**
 * The rows of a store that cannot be opened for writing, by table: on a file system that is read-only, or so full that
 * the WAL's shared memory finds no place. Throws when they cannot be read either.
 */
export function readOnlyRows(options: ConnectionOptions): Map<string, StoredRow[]> {
  const { path } = options;
  // Without a WAL the file is complete, and `immutable` lets SQLite do without the shared memory, which it would have
  // to make.
  const wal = statSync(`${path}-wal`, { throwIfNoEntry: false });
  if (!wal?.size) return readFrom(new DatabaseSync(immutableUrl(path), { readOnly: true }), options);
  try {
    return readFrom(new DatabaseSync(storeLocation(path), { readOnly: true }), options);
  } catch (error) {
    if (!isDiskTrouble(error)) throw error;
    // In this mode the index of the WAL is in the process's own memory. It needs a descriptor for writing, which a full
    // disk allows.
    const db = new DatabaseSync(storeLocation(path));
    db.exec('PRAGMA locking_mode = EXCLUSIVE');
    return readFrom(db, options);
  }
}

function readFrom(db: DatabaseSync, { path, tables, migrations = MIGRATIONS }: ConnectionOptions) {
  try {
    checkIntegrity(db);
    const found = versionOf(db, path, migrations);
    if (found !== newestVersion(migrations)) {
      throw new Error(`its version is ${found}, and bringing it up to date means writing it`);
    }
    const names = db.prepare("SELECT name FROM sqlite_master WHERE type = 'table'").all();
    const present = new Set(names.map(({ name }) => name));
    return new Map(tables.map((table) => [table, present.has(table) ? rowsOf(db, table) : []]));
  } finally {
    db.close();
  }
}

function immutableUrl(path: string): URL {
  const url = pathToFileURL(path);
  url.search = '?immutable=1';
  return url;
}

/**
 * Makes the file with its mode before SQLite does, and corrects that of an older one: rows hold containers'
 * environments. Throws where the file cannot be written: SQLite would open it for reading and fail at the first write.
 */
function makeFile(path: string): void {
  const present = statSync(path, { throwIfNoEntry: false });
  if (present) {
    if (!present.isFile()) throw new BrokenStore(`${path} is not a file`);
    accessSync(path, constants.W_OK);
    setMode(path);
    return;
  }
  closeSync(openSync(path, 'wx', MODE));
  const folder = openSync(dirname(path), 'r');
  try {
    fsyncSync(folder);
  } finally {
    closeSync(folder);
  }
}

function setMode(path: string): void {
  const present = statSync(path, { throwIfNoEntry: false });
  if (present && (present.mode & 0o777) !== MODE) chmodSync(path, MODE);
}

/** Reads every page: some milliseconds for a thousand rows. */
function checkIntegrity(db: DatabaseSync): void {
  const problems = db
    .prepare('PRAGMA integrity_check(3)')
    .all()
    .map(({ integrity_check: problem }) => String(problem));
  if (problems.join() !== 'ok') throw new BrokenStore(`SQLite's integrity check says: ${problems.join('; ')}`);
}

function rowsOf(db: DatabaseSync, table: string): StoredRow[] {
  return db.prepare(`SELECT id, row FROM ${table}`).all() as unknown as StoredRow[];
}

/** The version of the store in a file; 0: there is none. Throws CONFIG_INVALID when a newer Sluice has written it. */
function versionOf(db: DatabaseSync, path: string, migrations: Migrations): number {
  const { user_version: found } = db.prepare('PRAGMA user_version').get() as { user_version: number };
  const newest = newestVersion(migrations);
  if (found <= newest) return found;
  throw new SluiceError(
    'CONFIG_INVALID',
    `${path} was written by ${writer(db)}, whose store has version ${found}; Sluice ${VERSION} reads versions up to ${newest}. ` +
      'Start that Sluice again; to go back to this one, drain the node, stop the daemon and move the file away',
  );
}

/** Migrates an older store, and notes which Sluice writes it from now on. Returns true when there was none. */
function bringUpToDate(db: DatabaseSync, path: string, migrations: Migrations): boolean {
  const found = versionOf(db, path, migrations);
  const newest = newestVersion(migrations);
  if (found !== 0) migrate(db, found, migrations);
  if (found !== newest) db.exec(`PRAGMA user_version = ${newest}`);
  db.exec('CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID');
  if (writer(db) !== `Sluice ${VERSION}`) {
    db.prepare("INSERT OR REPLACE INTO about (name, value) VALUES ('writer', ?)").run(`Sluice ${VERSION}`);
  }
  return found === 0;
}

function migrate(db: DatabaseSync, from: number, migrations: Migrations): void {
  for (let version = from; version < newestVersion(migrations); version++) {
    try {
      migrations[version]?.(db);
    } catch (cause) {
      if (isDiskTrouble(cause)) throw cause;
      throw new BrokenStore(`the store cannot be brought from version ${version} to ${version + 1}: ${explain(cause)}`);
    }
  }
}

/**
 * Rows that an earlier Sluice has written, outside its store, as this one has them. Throws when they are a newer one's.
 */
export function migrateRows({
  rows,
  tables,
  version,
  migrations,
}: {
  rows: ReadonlyMap<string, readonly StoredRow[]>;
  tables: readonly string[];
  version: number;
  migrations: Migrations;
}): ReadonlyMap<string, readonly StoredRow[]> {
  const newest = newestVersion(migrations);
  if (version === newest) return rows;
  if (!(version >= 1 && version < newest))
    throw new Error(`they have version ${version}, the newest known is ${newest}`);
  const db = new DatabaseSync(':memory:');
  try {
    for (const table of tables) {
      makeTable(db, table);
      const put = db.prepare(`INSERT INTO ${table} (id, row) VALUES (?, ?)`);
      for (const { id, row } of rows.get(table) ?? []) put.run(id, row);
    }
    migrate(db, version, migrations);
    return new Map(tables.map((table) => [table, rowsOf(db, table)]));
  } finally {
    db.close();
  }
}

function makeTable(db: DatabaseSync, name: string): void {
  db.exec(`CREATE TABLE IF NOT EXISTS ${name} (id TEXT PRIMARY KEY, row TEXT NOT NULL) WITHOUT ROWID`);
}

function writer(db: DatabaseSync): string {
  try {
    const row = db.prepare("SELECT value FROM about WHERE name = 'writer'").get() as { value: string } | undefined;
    return row?.value ?? 'a newer Sluice';
  } catch {
    return 'a newer Sluice'; // one whose store has no such table
  }
}
