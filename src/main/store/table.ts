/**
 * A table of rows: memory is the truth while the daemon runs, SQLite is what the next one starts from. Every change is written
 * at once (some tens of microseconds, no fsync: see database.ts), so that a row is on its way to the disk before the resource
 * it describes exists.
 */
import { SluiceError } from '../../errors.ts';

export interface Row {
  id: string;
}

export interface Writer {
  insert(id: string, json: string): void;
  update(id: string, json: string): void;
  delete(id: string): void;
}

export class Table<R extends Row> {
  readonly #rows = new Map<string, R>();
  readonly #writer: Writer | undefined;

  /** Without a writer the table lives in memory alone (unit tests). */
  constructor(writer?: Writer, stored: Iterable<string> = []) {
    this.#writer = writer;
    for (const json of stored) {
      const row = decode<R>(json);
      this.#rows.set(row.id, row);
    }
  }

  get size(): number {
    return this.#rows.size;
  }

  get(id: string): R | undefined {
    return this.#rows.get(id);
  }

  /** The row with this id, or the only one whose id begins so (crictl sends what the user typed). Throws INVALID_REQUEST when several do. */
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

  /** Inserts or replaces; also how a changed row is written back. */
  put(row: R): void {
    if (this.#rows.has(row.id)) this.#writer?.update(row.id, encode(row));
    else this.#writer?.insert(row.id, encode(row));
    this.#rows.set(row.id, row);
  }

  delete(id: string): void {
    this.#writer?.delete(id);
    this.#rows.delete(id);
  }
}

/** Marks a bigint (CRI's int64 fields) in JSON; no text of a user begins with it, since protobuf strings that kubelet sends hold no NUL. */
const BIGINT = '\u0000bigint:';

function encode(row: Row): string {
  return JSON.stringify(row, (_key, value) => (typeof value === 'bigint' ? `${BIGINT}${value}` : value));
}

function decode<R>(json: string): R {
  return JSON.parse(json, (_key, value) =>
    typeof value === 'string' && value.startsWith(BIGINT) ? BigInt(value.slice(BIGINT.length)) : value,
  );
}
