import { Encoded } from '../../node/grpc/service.ts';

/** Where each field of a list's items comes from. */
export type Fields<Row, Item> = { readonly [K in keyof Item]-?: (row: Row) => Item[K] };

/** A row as its fields say. */
export function itemOf<Row, Item>(fields: Fields<Row, Item>, row: Row): Item {
  const item: Partial<Item> = {};
  for (const name in fields) item[name] = fields[name](row);
  return item as Item;
}

/** What an item was encoded from, in the order of the fields, and its bytes. */
interface Kept {
  values: unknown[];
  bytes: Uint8Array;
}

/**
 * The items of a list as bytes, each encoded once for as long as nothing in it changes: of 500 pods with kubelet's
 * labels and annotations, which are listed every second, hardly any has changed since the last time. Encoded messages
 * of one type may be concatenated, because protobuf merges repeated fields. For an item that has not changed no object
 * is made either.
 */
export class EncodedItems<Row extends object, Item extends object, Response> {
  readonly #fields: Fields<Row, Item>;
  readonly #sources: ((row: Row) => unknown)[];
  readonly #encode: (item: Item) => Uint8Array;
  readonly #kept = new WeakMap<Row, Kept>();

  /** `encode` gives the response that has this one item. */
  constructor(fields: Fields<Row, Item>, encode: (item: Item) => Uint8Array) {
    this.#fields = fields;
    this.#sources = Object.values<(row: Row) => unknown>(fields);
    this.#encode = encode;
  }

  /**
   * The response with the items of these rows. What a field of an item refers to (labels, metadata) must not be changed
   * in place: a new value is recognised by its identity.
   */
  response(rows: readonly Row[]): Encoded<Response> {
    return new Encoded<Response>(Buffer.concat(rows.map((row) => this.#bytesOf(row))));
  }

  #bytesOf(row: Row): Uint8Array {
    const kept = this.#kept.get(row);
    if (kept && this.#same(kept.values, row)) return kept.bytes;
    const bytes = this.#encode(itemOf(this.#fields, row));
    this.#kept.set(row, { values: this.#sources.map((source) => source(row)), bytes });
    return bytes;
  }

  #same(values: readonly unknown[], row: Row): boolean {
    for (let at = 0; at < values.length; at++) if (values[at] !== this.#sources[at]?.(row)) return false;
    return true;
  }
}
