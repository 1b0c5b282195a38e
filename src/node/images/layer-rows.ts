import type { Table } from '../store/table.ts';
import type { LayerRow } from './rows.ts';

/**
 * The rows of a store's layers: which are ready, by what a pull finds them, which of them pulls in flight hold, and
 * what all occupy.
 */
export class LayerRows {
  readonly #table: Table<LayerRow>;
  readonly #keyOf: (row: LayerRow) => string;
  readonly #byKey = new Map<string, LayerRow>();
  /** The layers that pulls in flight need, each with the number of pulls. */
  readonly #held = new Map<string, number>();
  #next = 1;
  #bytes = 0;
  #inodes = 0;

  /** `keyOf`: by what a ready layer is found. */
  constructor(table: Table<LayerRow>, keyOf: (row: LayerRow) => string) {
    this.#table = table;
    this.#keyOf = keyOf;
  }

  /** What all ready layers occupy on the disk. */
  get usage(): { bytes: number; inodes: number } {
    return { bytes: this.#bytes, inodes: this.#inodes };
  }

  all(): LayerRow[] {
    return [...this.#table.values()];
  }

  get(id: string): LayerRow | undefined {
    return this.#table.get(id);
  }

  /** The ready layer with this key. */
  find(key: string): LayerRow | undefined {
    return this.#byKey.get(key);
  }

  /** Stores a row that was changed. */
  put(row: LayerRow): void {
    this.#table.put(row);
  }

  delete(id: string): void {
    this.#table.delete(id);
  }

  /** Ids go on behind these names, so that none is used twice. */
  goOnBehind(names: Iterable<string>): void {
    const numbers = [...names].map((name) => Number.parseInt(name, 36)).filter((number) => !Number.isNaN(number));
    this.#next = 1 + numbers.reduce((a, b) => Math.max(a, b), 0);
  }

  /** The row of a layer that is going to be fetched. */
  begin({ diffId, digest, size, whiteouts }: Pick<LayerRow, 'diffId' | 'digest' | 'size' | 'whiteouts'>): LayerRow {
    const id = (this.#next++).toString(36);
    const row: LayerRow = { id, diffId, digest, size, base: '', bytes: 0, inodes: 0, ready: false };
    if (whiteouts) row.whiteouts = whiteouts;
    this.#table.put(row);
    return row;
  }

  /** A ready layer is found from now on, and counts. */
  add(row: LayerRow): void {
    this.#count(row, 1);
    this.#byKey.set(this.#keyOf(row), row);
  }

  /** It is found no longer. */
  drop(row: LayerRow): void {
    this.#count(row, -1);
    const key = this.#keyOf(row);
    if (this.#byKey.get(key) === row) this.#byKey.delete(key);
  }

  #count(row: LayerRow, sign: 1 | -1): void {
    this.#bytes += sign * row.bytes;
    this.#inodes += sign * row.inodes;
  }

  isHeld(id: string): boolean {
    return this.#held.has(id);
  }

  hold(id: string, onHold: (id: string) => void): void {
    this.#held.set(id, (this.#held.get(id) ?? 0) + 1);
    onHold(id);
  }

  release(ids: readonly string[]): void {
    for (const id of ids) {
      const count = (this.#held.get(id) ?? 0) - 1;
      if (count > 0) this.#held.set(id, count);
      else this.#held.delete(id);
    }
  }
}
