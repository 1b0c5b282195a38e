/**
 * The order of stdout and stderr. They come through two FIFOs, so what a container writes to both within microseconds
 * has no order any more when it arrives: the shim copies each stream in a goroutine of its own, and Go's scheduler
 * wakes the one that became ready last first. A program that prints a result and then an error would have its error
 * first in most logs.
 */

/**
 * Milliseconds that stderr is held back for; well below the one millisecond from which on the order of writes must
 * hold.
 */
const HOLD_MS = 0.4;
/**
 * A loop that works for more than this share of its time serves events late, and the order of its wake-ups is the best
 * that is known of the order of arrival.
 */
const BUSY = 0.5;
/** Milliseconds over which that share is taken, at least. */
const WINDOW_MS = 20;

export interface HoldOptions {
  /** Takes the bytes, which nobody overwrites. */
  release: (bytes: Buffer) => void;
  /** Replaces performance.now in tests. */
  now?: () => number;
  /** Replaces setImmediate in tests: the event loop has looked for new data before it calls back. */
  defer?: (callback: () => void) => void;
  /** Replaces {@link loopIsBusy} in tests. */
  isBusy?: () => boolean;
}

/** Holds stderr back for a moment, in which stdout that was written just before it may still arrive. */
export class StderrHold {
  readonly #release: (bytes: Buffer) => void;
  readonly #now: () => number;
  readonly #defer: (callback: () => void) => void;
  readonly #isBusy: () => boolean;
  #held: Buffer[] = [];
  #heldSince = 0;
  #first = true;
  #stdoutUsed = false;
  #lastStderr = Number.NEGATIVE_INFINITY;

  constructor({ release, now, defer, isBusy }: HoldOptions) {
    this.#release = release;
    this.#now = now ?? (() => performance.now());
    this.#defer = defer ?? setImmediate;
    this.#isBusy = isBusy ?? loopIsBusy;
  }

  /** Bytes are held back. */
  get holds(): boolean {
    return this.#held.length > 0;
  }

  /** The container has written to stdout: called before its bytes are passed on. */
  stdout(): void {
    this.#stdoutUsed = true;
    // The event loop came round late, so this arrived after the hold had expired.
    if (this.#held.length > 0 && this.#now() - this.#heldSince >= HOLD_MS) this.flush();
  }

  /** Passes the bytes on, at once or a moment later. They may be overwritten after the call. */
  stderr(bytes: Buffer): void {
    const now = this.#now();
    const burst = now - this.#lastStderr < 1;
    this.#lastStderr = now;
    if (this.#held.length > 0) {
      this.#held.push(Buffer.from(bytes));
      return;
    }
    // A container that uses stderr alone, or in a stream, does not wait.
    const hold = !burst && (this.#stdoutUsed || this.#first) && !this.#isBusy();
    this.#first = false;
    if (!hold) {
      this.#release(bytes);
      return;
    }
    this.#held.push(Buffer.from(bytes));
    this.#heldSince = now;
    const wait = () => {
      if (this.#held.length === 0) return;
      if (this.#now() - now >= HOLD_MS) this.flush();
      else this.#defer(wait);
    };
    this.#defer(wait);
  }

  /** Passes on what is held. */
  flush(): void {
    const held = this.#held;
    this.#held = [];
    for (const bytes of held) this.#release(bytes);
  }
}

let last = { at: performance.now(), idle: 0, busy: false };

/** Whether this thread's event loop is busy, see {@link BUSY}. */
function loopIsBusy(): boolean {
  const at = performance.now();
  const elapsed = at - last.at;
  if (elapsed < WINDOW_MS) return last.busy;
  const { idle } = performance.eventLoopUtilization();
  last = { at, idle, busy: 1 - (idle - last.idle) / elapsed > BUSY };
  return last.busy;
}
