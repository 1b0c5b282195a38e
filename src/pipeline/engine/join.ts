import { SluiceError } from '../../errors.ts';
import type { CallerLeft } from './admission.ts';

export type { CallerLeft };

/** Someone who waits for a job: its signal aborts with a {@link CallerLeft} when he stops waiting. */
export interface Caller {
  left?: AbortSignal;
  /** W3C traceparent header: the trace that the caller's job belongs to. */
  traceparent?: string;
}

interface Flight<T, Tag> {
  result: Promise<T>;
  tag: Tag;
  callers: number;
  /** Aborts when the last caller leaves, with the reason of that caller. */
  abandoned: AbortController;
  settled: boolean;
  /** The result, once there is one. */
  value?: { of: T };
}

export interface JoinOptions<T, Tag> {
  /** Milliseconds that a result nobody waits for is kept for the retry. */
  claimTtlMs: number;
  /** Undoes a result that was not claimed within claimTtlMs. */
  onUnclaimed: (key: string, value: T) => void;
  /**
   * Results without a caller, while they wait to be claimed. Whoever uses one claims it by deleting it from the set: it
   * is then not undone, and a retry still gets it until claimTtlMs is over.
   */
  unclaimed?: Set<T>;
  /** A further caller waits for the flight with this tag. */
  onJoin?: (tag: Tag) => void;
  /** Does a finished result still exist? It may be removed while it waits to be claimed. Left out: it always does. */
  exists?: (value: T) => boolean;
}

/**
 * Joins calls that mean the same launch. CRI has no request id and kubelet repeats a call whose deadline has passed,
 * with the same name and attempt; answering "name is reserved" then loops for ever (containerd issues 4604, 9947,
 * 12438). Here the retry joins the launch in flight, or takes the finished one that waits for it.
 *
 * Each flight carries a tag of the caller's: whatever a joining caller must see of the launch in flight.
 */
export class Joins<T, Tag> {
  readonly #flights = new Map<string, Flight<T, Tag>>();
  readonly #options: JoinOptions<T, Tag>;
  readonly #unclaimed: Set<T>;

  constructor(options: JoinOptions<T, Tag>) {
    this.#options = options;
    this.#unclaimed = options.unclaimed ?? new Set();
  }

  /** Flights that have no result yet. */
  get running(): number {
    let count = 0;
    for (const flight of this.#flights.values()) if (!flight.settled) count++;
    return count;
  }

  /** True when a launch is in flight under `key`, or its result waits there to be claimed. */
  has(key: string): boolean {
    return this.#find(key) !== undefined;
  }

  /** The tag of what is in flight under `key`, or waits there to be claimed; undefined: nothing does. */
  tag(key: string): Tag | undefined {
    return this.#find(key)?.tag;
  }

  /**
   * Waits for the launch of `key`, starting it with `tag` unless one is in flight. The signal given to `start` aborts
   * when nobody waits any more. Rejects with DEADLINE_PASSED or CALLER_GONE when this caller leaves, else with the
   * launch's own error.
   */
  async run(key: string, caller: Caller, tag: Tag, start: (abandoned: AbortSignal) => Promise<T>): Promise<T> {
    let flight = this.#find(key);
    if (flight) this.#options.onJoin?.(flight.tag);
    else flight = this.#start(key, tag, start);
    // An abort cannot be taken back: a launch that was dropped from the queue fails with it, one that runs ignores it.
    flight.callers++;
    const { promise: gone, reject } = Promise.withResolvers<never>();
    const leave = () => reject(leftError(caller.left?.reason));
    caller.left?.addEventListener('abort', leave, { once: true });
    if (caller.left?.aborted) leave();
    try {
      const value = await Promise.race([flight.result, gone]);
      this.#flights.delete(key);
      this.#unclaimed.delete(value);
      return value;
    } finally {
      caller.left?.removeEventListener('abort', leave);
      flight.callers--;
      if (flight.callers === 0) {
        if (!flight.settled) flight.abandoned.abort(caller.left?.reason);
        // The last caller left in the turn in which the result came, so that nobody has taken it.
        else if (flight.value && this.#flights.get(key) === flight) this.#awaitClaim(key, flight, flight.value.of);
      }
    }
  }

  #find(key: string): Flight<T, Tag> | undefined {
    const flight = this.#flights.get(key);
    if (!flight?.value || this.#options.exists?.(flight.value.of) !== false) return flight;
    this.#flights.delete(key);
    return undefined;
  }

  #start(key: string, tag: Tag, start: (abandoned: AbortSignal) => Promise<T>): Flight<T, Tag> {
    const abandoned = new AbortController();
    const flight: Flight<T, Tag> = { result: start(abandoned.signal), tag, callers: 0, abandoned, settled: false };
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

  #finished(key: string, flight: Flight<T, Tag>, value: T): void {
    flight.settled = true;
    flight.value = { of: value };
    if (flight.callers === 0) this.#awaitClaim(key, flight, value); // else each of them takes it now
  }

  /** Keeps a result that nobody waits for, and hands it over for undoing when it is not claimed within claimTtlMs. */
  #awaitClaim(key: string, flight: Flight<T, Tag>, value: T): void {
    this.#unclaimed.add(value);
    setTimeout(() => {
      const unclaimed = this.#unclaimed.delete(value);
      if (this.#flights.get(key) !== flight || flight.callers > 0) return;
      this.#flights.delete(key);
      if (unclaimed) this.#options.onUnclaimed(key, value);
    }, this.#options.claimTtlMs).unref();
  }
}

function leftError(reason: CallerLeft | undefined): SluiceError {
  return reason === 'deadline'
    ? new SluiceError('DEADLINE_PASSED', 'the caller’s deadline passed; the launch goes on and a retry joins it')
    : new SluiceError('CALLER_GONE', 'the caller left; the launch goes on and a retry joins it');
}
