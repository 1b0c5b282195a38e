import { SluiceError } from '../../errors.ts';

/**
 * Bytes a second below which a transfer counts as stalled: a registry that sends a byte now and then is no better than
 * a silent one.
 */
const LEAST_RATE = 1024;
/** A connection that falls silent for this part of the time limit is replaced: it may have died on the way. */
const PART_OF_LIMIT = 1 / 3;

/**
 * How long a transfer may wait for its registry. Only time in which somebody waits for a byte counts, over all its
 * connections.
 */
export class Patience {
  readonly limitMs: number;
  /** Waiting since the last byte. */
  #silentMs = 0;
  /** The present span: waiting, and the bytes that came in it. */
  #waitedMs = 0;
  #bytes = 0;

  /** `limitMs` is the longest wait for a byte, and the span over which the least rate is taken. */
  constructor(limitMs: number) {
    this.limitMs = limitMs;
  }

  /** Milliseconds that the present connection may be silent. */
  get perConnectionMs(): number {
    return Math.max(1, Math.min(this.limitMs * PART_OF_LIMIT, this.limitMs - this.#silentMs));
  }

  /** Adds a wait and what came of it. Throws TIMED_OUT when a whole span has brought too little. */
  add(ms: number, bytes: number, host: string): void {
    const seconds = this.limitMs / 1000;
    this.#silentMs = bytes > 0 ? 0 : this.#silentMs + ms;
    if (this.#silentMs >= this.limitMs * 0.99)
      throw new SluiceError('TIMED_OUT', `${host} has sent nothing for ${seconds} s`);
    this.#waitedMs += ms;
    this.#bytes += bytes;
    if (this.#waitedMs < this.limitMs) return;
    if (this.#bytes < LEAST_RATE * seconds)
      throw new SluiceError('TIMED_OUT', `${host} has sent only ${this.#bytes} bytes in ${seconds} s`);
    this.#waitedMs = 0;
    this.#bytes = 0;
  }
}
