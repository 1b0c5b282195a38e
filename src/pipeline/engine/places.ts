import PQueue from 'p-queue';
import { withTimeLimit } from '../../time-limit.ts';

/** Holders that have given their places back and still run: at most this many times the limit. */
const OVERTIME = 4;

export interface PlacesOptions {
  /** How many hold a place at once. */
  limit: number;
  /**
   * Milliseconds after which work that still runs gives its place back and goes on without one. A place stands for a
   * share of the CPU and of locks; what takes many times its usual time waits for something that hangs, and must not
   * keep the others waiting as well. Left out: never.
   */
  leaseMs?: number;
}

/** A bounded number of places with a queue before them, in the order of priority. */
export class Places {
  readonly #leaseMs: number | undefined;
  readonly #queue: PQueue;
  readonly #overtime = new Set<Promise<void>>();
  #running = 0;

  constructor({ limit, leaseMs }: PlacesOptions) {
    this.#leaseMs = leaseMs;
    this.#queue = new PQueue({ concurrency: limit });
  }

  /**
   * Runs `work` when its turn comes (higher priorities first, equal ones in their order) and settles as it does.
   * Rejects with the signal's reason when that aborts before.
   */
  add<T>(work: () => Promise<T>, { priority, signal }: { priority: number; signal?: AbortSignal }): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const begin = async () => {
      this.#running++;
      const ended = work()
        .finally(() => this.#running--)
        .then(resolve, reject);
      await this.#holdPlace(ended);
    };
    this.#queue.add(begin, { priority, signal }).catch(reject);
    return promise;
  }

  get limit(): number {
    return this.#queue.concurrency;
  }

  /** Another number of places from now on; holders keep theirs, also above a lower limit. */
  set limit(limit: number) {
    this.#queue.concurrency = limit;
  }

  /** Work that has begun and not ended, with or without a place. */
  get running(): number {
    return this.#running;
  }

  get queued(): number {
    return this.#queue.size;
  }

  /** Whether an `add` would have to wait now. */
  get full(): boolean {
    return this.#queue.pending >= this.limit;
  }

  /** Resolves when nothing runs or waits. */
  async idle(): Promise<void> {
    do {
      await this.#queue.onIdle();
      await Promise.all(this.#overtime);
    } while (this.#running + this.#queue.size > 0);
  }

  async #holdPlace(ended: Promise<void>): Promise<void> {
    if (this.#leaseMs === undefined) return ended;
    const outcome = await withTimeLimit(ended, this.#leaseMs, () => 'late' as const);
    if (outcome !== 'late') return;
    if (this.#overtime.size >= OVERTIME * this.limit) return ended;
    this.#overtime.add(ended);
    void ended.then(() => this.#overtime.delete(ended));
  }
}
