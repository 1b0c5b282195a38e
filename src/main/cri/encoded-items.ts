import { Encoded } from '../../node/grpc/service.ts';

/**
 * The items of a list as bytes, each encoded once for as long as nothing in it changes: of 500 pods with kubelet's
 * labels and annotations, which are listed every second, hardly any has changed since the last time. Encoded messages
 * of one type may be concatenated, because protobuf merges repeated fields.
 */
export class EncodedItems<Row extends object, Item extends object, Response> {
  readonly #encode: (item: Item) => Uint8Array;
  readonly #kept = new WeakMap<Row, { item: Item; bytes: Uint8Array }>();

  /** `encode` gives the response that has this one item. */
  constructor(encode: (item: Item) => Uint8Array) {
    this.#encode = encode;
  }

  /**
   * The response with the items of these rows. What a field of an item refers to (labels, metadata) must not be changed
   * in place: a new value is recognised by its identity.
   */
  response(items: Iterable<{ row: Row; item: Item }>): Encoded<Response> {
    const parts: Uint8Array[] = [];
    for (const { row, item } of items) parts.push(this.#bytesOf(row, item));
    return new Encoded<Response>(Buffer.concat(parts));
  }

  #bytesOf(row: Row, item: Item): Uint8Array {
    const kept = this.#kept.get(row);
    if (kept && sameFields(kept.item, item)) return kept.bytes;
    const bytes = this.#encode(item);
    this.#kept.set(row, { item, bytes });
    return bytes;
  }
}

/** Both come from one function, and have the same fields. */
function sameFields<T extends object>(one: T, other: T): boolean {
  for (const field in one) if (one[field] !== other[field]) return false;
  return true;
}
