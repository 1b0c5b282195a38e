import { explain } from '../../errors.ts';

/** Milliseconds before the first retry; doubled each time, up to the last. */
const FIRST_DELAY_MS = 250;
const LAST_DELAY_MS = 30_000;

export interface PendingWritesOptions {
  /** Writes what memory holds of these rows, or throws. */
  write: (rows: readonly PendingRow[]) => void;
  /** Called when the reason changes; undefined: everything is written again, after `writes` rows waited. */
  onChange: (reason: string | undefined, writes: number) => void;
}

export interface PendingRow {
  table: string;
  id: string;
}

/**
 * The rows that could not be written. Memory is the truth while the daemon runs, so only their ids are kept: a retry
 * writes what each row is by then, or deletes it.
 */
export class PendingWrites implements Disposable {
  readonly #options: PendingWritesOptions;
  readonly #rows = new Map<string, PendingRow>();
  #reason: string | undefined;
  #lastError: unknown;
  #delay = FIRST_DELAY_MS;
  #timer: NodeJS.Timeout | undefined;
  #lastTry = 0;

  constructor(options: PendingWritesOptions) {
    this.#options = options;
  }

  get size(): number {
    return this.#rows.size;
  }

  /** Why the store cannot be written; undefined: it can. */
  get reason(): string | undefined {
    return this.#reason;
  }

  /** What the last attempt failed with. */
  get error(): unknown {
    return this.#lastError;
  }

  /**
   * Keeps a row for a retry, `error` being why it could not be written now; without one it joins those that wait
   * already.
   */
  add(row: PendingRow, error?: unknown): void {
    this.#rows.set(`${row.table} ${row.id}`, row);
    if (error !== undefined) this.fail(error);
  }

  /** The store cannot be written, whether or not a row waits for it. */
  fail(error: unknown): void {
    const reason = explain(error);
    this.#lastError = error;
    this.#lastTry = performance.now();
    const changed = reason !== this.#reason;
    this.#reason = reason;
    if (changed) this.#options.onChange(reason, this.#rows.size);
    this.#timer ??= setTimeout(() => this.#retry(), this.#delay).unref();
  }

  /** Tries now what waits, unless that was done a moment ago. True when nothing waits any more. */
  flush(): boolean {
    if (this.#reason !== undefined && performance.now() - this.#lastTry >= FIRST_DELAY_MS) this.#try();
    return this.#reason === undefined;
  }

  /** One last attempt. */
  [Symbol.dispose](): void {
    if (this.#reason !== undefined) this.#try();
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #retry(): void {
    this.#timer = undefined;
    this.#delay = Math.min(this.#delay * 2, LAST_DELAY_MS);
    this.#try();
  }

  #try(): void {
    try {
      this.#options.write([...this.#rows.values()]);
    } catch (error) {
      this.fail(error);
      return;
    }
    const waited = this.#rows.size;
    this.#rows.clear();
    this.#reason = undefined;
    this.#lastError = undefined;
    this.#delay = FIRST_DELAY_MS;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#options.onChange(undefined, waited);
  }
}
