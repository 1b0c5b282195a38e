/**
 * A table of rows: memory is the truth while the daemon runs, SQLite is what the next one starts from. Every change is
 * written at once (some tens of microseconds, no fsync: see connection.ts), so that a row is on its way to the disk
 * before the resource it describes exists.
 */

import { SluiceError } from '../../errors.ts';
import { type Codec, plainCodec } from './codec.ts';
import type { StoredRow } from './connection.ts';

export interface Row {
  id: string;
}

/**
 * Where changes go. Only `insert` throws, and then the row is not there; a change or deletion that cannot be written is
 * retried.
 */
export interface Writer {
  insert(id: string, json: string): void;
  update(id: string, json: string): void;
  delete(id: string): void;
}

export class Table<R extends Row> {
  readonly #rows = new Map<string, R>();
  readonly #codec: Codec<R>;
  readonly #writer: Writer | undefined;

  /**
   * Without a writer the table lives in memory alone (unit tests). Throws for rows that the codec does not understand.
   */
  constructor(codec: Codec<R> = plainCodec(), writer?: Writer, stored: Iterable<StoredRow> = []) {
    this.#codec = codec;
    this.#writer = writer;
    for (const { id, row: text } of stored) {
      const row = codec.decode(text);
      if (row.id !== id) throw new Error(`the row of ${id} is that of ${row.id}`);
      this.#rows.set(id, row);
    }
  }

  get size(): number {
    return this.#rows.size;
  }

  get(id: string): R | undefined {
    return this.#rows.get(id);
  }

  /**
   * The row with this id, or the only one whose id begins so (crictl sends what the user typed). Throws INVALID_REQUEST
   * when several do.
   */
  find(idOrPrefix: string): R | undefined {
    const exact = this.#rows.get(idOrPrefix);
    if (exact || idOrPrefix === '') return exact;
    const matches = [...this.#rows.values()].filter((row) => row.id.startsWith(idOrPrefix));
    if (matches.length > 1) throw new SluiceError('INVALID_REQUEST', `the id prefix "${idOrPrefix}" is ambiguous`);
    return matches[0];
  }

  values(): IterableIterator<R> {
    return this.#rows.values();
  }

  /**
   * Writes a changed row back; never throws for the disk's sake. A row that was deleted meanwhile stays deleted: an
   * undo that ends after its time limit must not bring back what a later retry has removed.
   */
  update(row: R): void {
    if (this.#rows.get(row.id) === row) this.put(row);
  }

  /** Inserts or replaces. Throws when a new row cannot be written. */
  put(row: R): void {
    if (!this.#rows.has(row.id)) this.#writer?.insert(row.id, this.#codec.encode(row));
    else this.#writer?.update(row.id, this.#codec.encode(row));
    this.#rows.set(row.id, row);
  }

  delete(id: string): void {
    this.#writer?.delete(id);
    this.#rows.delete(id);
  }

  /** The row as it is stored. */
  text(id: string): string | undefined {
    const row = this.#rows.get(id);
    return row && this.#codec.encode(row);
  }

  /** All rows as they are stored. */
  *all(): Generator<StoredRow> {
    for (const row of this.#rows.values()) yield { id: row.id, row: this.#codec.encode(row) };
  }
}
