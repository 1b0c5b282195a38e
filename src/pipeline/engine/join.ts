import { SluiceError } from '../../errors.ts';
import type { CallerLeft } from './admission.ts';

export type { CallerLeft };

/** Someone who waits for a job; the signal aborts with a {@link CallerLeft} when he stops waiting. */
export interface Caller {
  left?: AbortSignal;
}

interface Flight<T> {
  result: Promise<T>;
  callers: number;
  /** Aborts when the last caller leaves, with the reason that caller had. */
  abandoned: AbortController;
  settled: boolean;
  /** What it came to, once it has succeeded. */
  value?: { of: T };
}

export interface JoinOptions<T> {
  /** Milliseconds that a result nobody waits for is kept for the retry. */
  claimTtlMs: number;
  /** Undoes a result that nobody came for. */
  onUnclaimed: (key: string, value: T) => void;
  onJoin?: (key: string) => void;
  /** Is a finished result still there? Somebody may have removed it while it waited to be claimed. Left out: always. */
  isThere?: (value: T) => boolean;
}

/**
 * Joins calls that mean the same launch. CRI has no request id and kubelet repeats a call whose deadline has passed, with the
 * same name and attempt; answering "name is reserved" then loops for ever (containerd issues 4604, 9947, 12438). Here the
 * retry joins the launch in flight, or takes the finished one that waits for it.
 */
export class Joins<T> {
  readonly #flights = new Map<string, Flight<T>>();
  readonly #options: JoinOptions<T>;

  constructor(options: JoinOptions<T>) {
    this.#options = options;
  }

  /** Waits for the launch of `key`, starting it unless it is in flight. `abandoned` tells the launch that nobody waits. */
  async run(key: string, caller: Caller, start: (abandoned: AbortSignal) => Promise<T>): Promise<T> {
    let flight = this.#find(key);
    if (flight) this.#options.onJoin?.(key);
    else flight = this.#start(key, start);
    // An abort cannot be taken back: a launch that was dropped from the queue fails with it, one that runs ignores it.
    flight.callers++;
    const { promise: gone, reject } = Promise.withResolvers<never>();
    const leave = () => reject(leftError(caller.left?.reason));
    caller.left?.addEventListener('abort', leave, { once: true });
    if (caller.left?.aborted) leave();
    try {
      const value = await Promise.race([flight.result, gone]);
      this.#flights.delete(key); // claimed
      return value;
    } finally {
      caller.left?.removeEventListener('abort', leave);
      flight.callers--;
      if (flight.callers === 0 && !flight.settled) flight.abandoned.abort(caller.left?.reason);
    }
  }

  /** The keys of what is in flight or waits to be claimed. */
  has(key: string): boolean {
    return this.#find(key) !== undefined;
  }

  #find(key: string): Flight<T> | undefined {
    const flight = this.#flights.get(key);
    if (!flight?.value || this.#options.isThere?.(flight.value.of) !== false) return flight;
    this.#flights.delete(key);
    return undefined;
  }

  #start(key: string, start: (abandoned: AbortSignal) => Promise<T>): Flight<T> {
    const abandoned = new AbortController();
    const flight: Flight<T> = { result: start(abandoned.signal), callers: 0, abandoned, settled: false };
    this.#flights.set(key, flight);
    flight.result.then(
      (value) => this.#finished(key, flight, value),
      () => {
        flight.settled = true;
        if (this.#flights.get(key) === flight) this.#flights.delete(key);
      },
    );
    return flight;
  }

  #finished(key: string, flight: Flight<T>, value: T): void {
    flight.settled = true;
    flight.value = { of: value };
    if (flight.callers > 0) return; // each of them takes it now
    setTimeout(() => {
      if (this.#flights.get(key) !== flight || flight.callers > 0) return;
      this.#flights.delete(key);
      this.#options.onUnclaimed(key, value);
    }, this.#options.claimTtlMs).unref();
  }
}

function leftError(reason: CallerLeft | undefined): SluiceError {
  return reason === 'deadline'
    ? new SluiceError('DEADLINE_PASSED', 'the caller’s deadline passed; the launch goes on and a retry joins it')
    : new SluiceError('CALLER_GONE', 'the caller left; the launch goes on and a retry joins it');
}
