import { randomFillSync } from 'node:crypto';
import { existsSync, mkdirSync, renameSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { codeOf, explain, isOutOfSpace, SluiceError } from '../../errors.ts';
import { ballastOf, takeBallast } from '../../workers/store/ballast.ts';
import type { Log } from '../observe/log.ts';
import { Connection, type ConnectionOptions, readOnlyRows, type StoredRow } from './connection.ts';
import { PendingWrites } from './pending-writes.ts';
import { isBroken, isDiskTrouble, keepsConnection, mayBeFull } from './sqlite-errors.ts';

/** With less than this an error of SQLite's that may come from a full disk does. */
const FULL_BYTES = 128 << 10;

export interface DatabaseOptions extends ConnectionOptions {
  log?: Pick<Log, 'info' | 'warn' | 'error'>;
  /** Receives the duration of each write, in seconds. */
  onWrite?: (seconds: number) => void;
}

/** What the database reads from memory when it writes rows that could not be written when they changed. */
export interface Source {
  /** The row as text; undefined: deleted. */
  text(id: string): string | undefined;
  all(): Iterable<StoredRow>;
}

/**
 * The store's file, and what is done when it cannot be read or written:
 *
 * - A change or deletion never fails. What cannot be written stays in memory and is retried (pending-writes.ts).
 * - A new row is refused while the store cannot be written: its resource would have no record.
 * - A full disk gives up the ballast for changes and deletions, and for the start: a full node must still be emptied. New rows do not
 *   get it, since whatever they would name could not be made either.
 * - A broken file is moved aside, and a new one is made from memory, or at start from the rows' copies (copies.ts).
 */
export class Database implements Disposable {
  readonly path: string;
  readonly #options: DatabaseOptions;
  readonly #sources = new Map<string, Source>();
  readonly #pending: PendingWrites;
  #connection: Connection | undefined;
  #isNew = false;
  /** The last failure was for want of room. */
  #noRoom = false;
  #stored = new Map<string, StoredRow[]>();

  /** Throws CONFIG_INVALID for a store of a newer Sluice, or one that the disk refuses to read. */
  constructor(options: DatabaseOptions) {
    const { path, log } = options;
    this.path = path;
    this.#options = options;
    this.#pending = new PendingWrites({
      write: (rows) => this.#writePending(rows),
      onChange: (reason, writes) => {
        if (reason === undefined) log?.info({ path, writes }, 'the store can be written again');
        else
          log?.error({ path, reason, writes }, 'the store cannot be written: changes stay in memory and are retried');
      },
    });
    try {
      mkdirSync(dirname(path), { recursive: true, mode: 0o711 });
      this.#connection = this.#open();
      this.#isNew = this.#connection.isNew;
      this.#stored = new Map(options.tables.map((table) => [table, this.#connection?.rows(table) ?? []]));
    } catch (error) {
      if (!isDiskTrouble(error)) throw error;
      const stored = this.#readOnly(error);
      this.#isNew = stored === undefined;
      this.#stored = stored ?? new Map();
      this.#judge(error);
      this.#pending.fail(error);
    }
    try {
      takeBallast(path);
    } catch (error) {
      log?.warn({ path: ballastOf(path), reason: explain(error) }, 'no room can be kept for emptying a full disk');
    }
  }

  /** There was no store: the file was not there, was empty, or is broken. */
  get isNew(): boolean {
    return this.#isNew;
  }

  /** Why the store cannot be written; undefined: it can. */
  get trouble(): string | undefined {
    return this.#pending.reason;
  }

  /** Changes that are in memory alone. */
  get pending(): number {
    return this.#pending.size;
  }

  /** The rows as the file had them at start; once for each table. */
  takeStored(table: string): StoredRow[] {
    const rows = this.#stored.get(table) ?? [];
    this.#stored.delete(table);
    return rows;
  }

  /** Names where memory has the rows of a table. */
  readFrom(table: string, source: Source): void {
    this.#sources.set(table, source);
  }

  /** Moves the file aside, since its rows cannot be used, and begins a new one. */
  replaceBroken(reason: unknown): void {
    this.#disconnect();
    try {
      this.#moveAside(reason);
      this.#connection = this.#open();
    } catch (error) {
      this.#lose(error);
    }
  }

  /** Writes all that memory holds. */
  rewrite(): void {
    try {
      this.#withBallast(() => this.#connection?.transaction(() => this.#writeAll(this.#connection)));
    } catch (error) {
      this.#judge(error);
      this.#disconnect(); // so that the retry writes all again
      this.#pending.fail(error);
    }
  }

  /** Writes a new row. Throws what keeps it from being written, DISK_FULL among others. */
  insert(table: string, id: string, row: string): void {
    if (!this.#pending.flush()) {
      throw this.#refusal(this.#pending.error);
    }
    try {
      this.#timed((connection) => connection.put(table, id, row));
    } catch (cause) {
      if (keepsConnection(cause)) this.#judge(cause);
      else this.#lose(cause);
      throw this.#refusal(cause);
    }
  }

  /** Writes a changed row, now or later. */
  update(table: string, id: string, row: string): void {
    this.#essential({ table, id }, (connection) => connection.put(table, id, row));
  }

  /** Deletes a row, now or later. */
  delete(table: string, id: string): void {
    this.#essential({ table, id }, (connection) => connection.remove(table, id));
  }

  [Symbol.dispose](): void {
    this.#pending[Symbol.dispose]();
    const { log, path } = this.#options;
    if (this.#pending.size > 0) log?.error({ path, writes: this.#pending.size }, 'changes of the store are lost');
    this.#disconnect();
  }

  /** For a failure that was judged. */
  #refusal(cause: unknown): SluiceError {
    return new SluiceError(this.#noRoom ? 'DISK_FULL' : codeOf(cause), 'the store cannot be written', { cause });
  }

  #essential(row: { table: string; id: string }, write: (connection: Connection) => void): void {
    if (this.#pending.reason !== undefined) {
      this.#pending.add(row);
      return;
    }
    try {
      this.#withBallast(() => this.#timed(write));
    } catch (error) {
      this.#pending.add(row);
      this.#lose(error);
    }
  }

  #timed(write: (connection: Connection) => void): void {
    const began = performance.now();
    if (!this.#connection) throw new SluiceError('INTERNAL', 'the store is closed');
    write(this.#connection);
    this.#options.onWrite?.((performance.now() - began) / 1000);
  }

  /**
   * Notes that the store cannot be written. Except on a full disk, the retry opens the file anew: it may be another one
   * by then.
   */
  #lose(error: unknown): void {
    this.#judge(error);
    if (!keepsConnection(error)) this.#disconnect();
    this.#pending.fail(error);
  }

  /**
   * SQLite says "disk I/O error" also for files that find no room and for all quotas; the file system knows. It is
   * asked while the connection is open: closing it removes the WAL, which makes room.
   */
  #judge(error: unknown): void {
    this.#noRoom = mayBeFull(error) && hasNoRoom(this.path);
  }

  #writePending(rows: readonly { table: string; id: string }[]): void {
    try {
      this.#withBallast(() => {
        const connection = this.#connection;
        if (!connection) this.#connection = this.#openForAll();
        // Whoever holds the lock has held it for a second already: waiting again would hold up main, and the next retry
        // comes soon.
        else connection.withoutWaiting(() => connection.transaction(() => this.#writeRows(rows)));
      });
    } catch (error) {
      this.#judge(error);
      if (!keepsConnection(error)) this.#disconnect();
      throw error;
    }
  }

  #writeRows(rows: readonly { table: string; id: string }[]): void {
    for (const { table, id } of rows) {
      const text = this.#sources.get(table)?.text(id);
      if (text === undefined) this.#connection?.remove(table, id);
      else this.#connection?.put(table, id, text);
    }
  }

  /** A file opened anew may be older than memory, or empty: it gets all rows. */
  #openForAll(): Connection {
    const connection = this.#open();
    try {
      connection.transaction(() => this.#writeAll(connection));
      return connection;
    } catch (error) {
      connection[Symbol.dispose]();
      throw error;
    }
  }

  #writeAll(connection: Connection | undefined): void {
    for (const [table, source] of this.#sources) connection?.replace(table, source.all());
  }

  #open(): Connection {
    const open = () => this.#withBallast(() => new Connection(this.#options));
    try {
      return open();
    } catch (error) {
      if (!isBroken(error)) throw error;
      this.#moveAside(error);
      return open();
    }
  }

  #moveAside(reason: unknown): void {
    const { path, log } = this.#options;
    const aside = `${path}.broken-${new Date().toISOString().replaceAll(':', '-')}`;
    renameSync(path, aside);
    if (existsSync(`${path}-wal`)) renameSync(`${path}-wal`, `${aside}-wal`);
    rmSync(`${path}-shm`, { force: true });
    log?.error({ path, aside, reason: explain(reason) }, 'the store is broken and has been moved aside');
  }

  /** The rows of a file that cannot be written; undefined when there are none. */
  #readOnly(why: unknown): Map<string, StoredRow[]> | undefined {
    if (!existsSync(this.path)) return undefined;
    try {
      return readOnlyRows(this.#options);
    } catch (cause) {
      if (isBroken(cause)) return undefined;
      throw new SluiceError(
        'CONFIG_INVALID',
        `the store ${this.path} can neither be written (${explain(why)}) nor read`,
        { cause },
      );
    }
  }

  /** Runs a write that makes room for others in the end, a second time without the ballast if need be. */
  #withBallast<T>(write: () => T): T {
    const ballast = ballastOf(this.path);
    try {
      return write();
    } catch (error) {
      if (!mayBeFull(error) || !existsSync(ballast)) throw error;
      try {
        rmSync(ballast);
      } catch {
        throw error; // the file system is read-only
      }
      return write();
    }
  }

  #disconnect(): void {
    try {
      this.#connection?.[Symbol.dispose]();
    } catch (error) {
      this.#options.log?.warn({ path: this.path, reason: explain(error) }, 'closing the store failed');
    }
    this.#connection = undefined;
  }
}

/** Whether a file beside this one finds no room. A quota shows in a write alone. */
function hasNoRoom(path: string): boolean {
  const probe = `${path}.probe`;
  try {
    const { bavail, bsize } = statfsSync(dirname(path));
    if (bavail * bsize < FULL_BYTES) return true;
    writeFileSync(probe, randomFillSync(Buffer.allocUnsafe(FULL_BYTES)), { mode: 0o600 });
    return false;
  } catch (error) {
    return error instanceof Error && isOutOfSpace(error); // otherwise it is some other failure
  } finally {
    try {
      rmSync(probe, { force: true });
    } catch {
      // A read-only file system, where nothing was written either.
    }
  }
}
