/** A ring of memory that two threads share: one puts a blob's bytes in, the other makes their digest. */
import { createHash } from 'node:crypto';

const SLOT = 64 << 10;
const SLOTS = 16;
/** Where the control words are: slots that were filled, slots that were emptied, and the length of each slot. */
const FILLED = 0;
const EMPTIED = 1;
const LENGTHS = 2;
/** The length of the slot behind the last one. */
const END = -1;

/** What the thread that makes the digest gets. */
export interface DigestWork {
  algorithm: 'sha256' | 'sha512';
  ring: SharedArrayBuffer;
}

export const makeRing = (): SharedArrayBuffer => new SharedArrayBuffer(4 * (LENGTHS + SLOTS) + SLOTS * SLOT);

const controlOf = (ring: SharedArrayBuffer) => new Int32Array(ring, 0, LENGTHS + SLOTS);
const slotOf = (ring: SharedArrayBuffer, at: number, length: number) =>
  new Uint8Array(ring, 4 * (LENGTHS + SLOTS) + (at % SLOTS) * SLOT, length);

/** The producer. It waits for room without blocking its thread. */
export class RingWriter {
  readonly #ring: SharedArrayBuffer;
  readonly #control: Int32Array<SharedArrayBuffer>;
  #filled = 0;
  #error: Error | undefined;

  constructor(ring: SharedArrayBuffer) {
    this.#ring = ring;
    this.#control = controlOf(ring);
  }

  /** Copies the bytes. Throws what {@link fail} was given. */
  async add(bytes: Buffer): Promise<void> {
    for (let at = 0; at < bytes.length; at += SLOT) {
      const part = bytes.subarray(at, at + SLOT);
      await this.#room();
      slotOf(this.#ring, this.#filled, part.length).set(part);
      this.#fill(part.length);
    }
  }

  /** Marks the end of the input. */
  async end(): Promise<void> {
    await this.#room();
    this.#fill(END);
  }

  /** The consumer's thread has ended: `add` and `end` reject from now on. */
  fail(error: Error): void {
    this.#error = error;
    Atomics.notify(this.#control, EMPTIED);
  }

  async #room(): Promise<void> {
    for (;;) {
      if (this.#error) throw this.#error;
      const emptied = Atomics.load(this.#control, EMPTIED);
      if (this.#filled - emptied < SLOTS) return;
      await Atomics.waitAsync(this.#control, EMPTIED, emptied).value;
    }
  }

  #fill(length: number): void {
    this.#control[LENGTHS + (this.#filled % SLOTS)] = length;
    this.#filled++;
    Atomics.store(this.#control, FILLED, this.#filled);
    Atomics.notify(this.#control, FILLED);
  }
}

/** Empties the ring until its end, and returns the digest in hexadecimal. Blocks its thread meanwhile. */
export function digestOfRing({ algorithm, ring }: DigestWork): string {
  const control = controlOf(ring);
  const hash = createHash(algorithm);
  for (let emptied = 0; ; ) {
    while (Atomics.load(control, FILLED) === emptied) Atomics.wait(control, FILLED, emptied);
    const length = control[LENGTHS + (emptied % SLOTS)] ?? END;
    if (length === END) return hash.digest('hex');
    hash.update(slotOf(ring, emptied, length));
    emptied++;
    Atomics.store(control, EMPTIED, emptied);
    Atomics.notify(control, EMPTIED);
  }
}
