/**
 * Threads for layers give way to launches that are late, through memory that they share with the main thread. A launch
 * is a row of short steps in several threads and in the kernel, and next to a pull that takes every processor each of
 * them waits for one. Priorities and affinity change little in that (measured: nice values, SCHED_BATCH, SCHED_IDLE,
 * a processor set aside), since the kernel's own steps, such as RCU's grace periods, wait as well. A pull that stands
 * still for some milliseconds lets a launch end that it has held up.
 */
import { availableParallelism } from 'node:os';

/** The one word of the memory: launches that are late. */
const LATE = 0;

/**
 * Milliseconds after which a launch is late: about what one takes on two processors, so that a pull goes on beside
 * launches that nothing holds up. Measured with 350 of them (docs/develop/benchmarks.md, "Images"): their p95 fell from
 * 24 to 17 ms and their p99 from 38 to 22, and the pull took no longer. With 4 ms it took a tenth longer, for no more.
 */
const LATE_MS = 7;
/** Milliseconds of being late after which a launch has something else to wait for, and no pull stands still for it. */
const PATIENCE_MS = 50;
/**
 * Milliseconds that a thread may stand still before it has worked as long again: launches that never end in time make a
 * pull take twice as long, and no more.
 */
const CREDIT_MS = 50;
/**
 * With more processors than this, the layers' threads and those for their digests leave some to launches anyhow: they
 * are eight at most.
 */
const FEW_PROCESSORS = 8;

export const giveWayMemory = (): SharedArrayBuffer => new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT);

/** Milliseconds and processors that tests set. */
export interface LateLaunchesOptions {
  lateMs?: number;
  patienceMs?: number;
  processors?: number;
}

/** The main thread's side. */
export class LateLaunches {
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #lateMs: number;
  readonly #patienceMs: number;
  readonly #matter: boolean;

  constructor(memory: SharedArrayBuffer, options: LateLaunchesOptions = {}) {
    const { lateMs = LATE_MS, patienceMs = PATIENCE_MS, processors = availableParallelism() } = options;
    this.#words = new Int32Array(memory);
    this.#lateMs = lateMs;
    this.#patienceMs = patienceMs;
    this.#matter = processors <= FEW_PROCESSORS;
  }

  /** A launch has begun; it ends when this is disposed. */
  begin(): Disposable | undefined {
    if (!this.#matter) return undefined;
    let late = false;
    const onLate = () => {
      late = true;
      Atomics.add(this.#words, LATE, 1);
      timer = setTimeout(end, this.#patienceMs).unref();
    };
    const end = () => {
      if (!late) return;
      late = false;
      if (Atomics.sub(this.#words, LATE, 1) === 1) Atomics.notify(this.#words, LATE);
    };
    let timer = setTimeout(onLate, this.#lateMs).unref();
    return {
      [Symbol.dispose]: () => {
        clearTimeout(timer);
        end();
      },
    };
  }
}

/** The side of one thread for layers. */
export class GiveWay {
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #creditMs: number;
  /** What is left of it, as of `#since`. */
  #credit: number;
  #since = performance.now();

  /** `creditMs` is for tests. */
  constructor(memory: SharedArrayBuffer, { creditMs = CREDIT_MS }: { creditMs?: number } = {}) {
    this.#words = new Int32Array(memory);
    this.#creditMs = creditMs;
    this.#credit = creditMs;
  }

  /**
   * Blocks this thread while a launch is late and it has credit, and returns for how many milliseconds. To be called
   * between two pieces of work, of about a millisecond each.
   */
  give(): number {
    let late = Atomics.load(this.#words, LATE);
    if (late === 0) return 0;
    const began = performance.now();
    this.#credit = Math.min(this.#creditMs, this.#credit + began - this.#since);
    for (let gone = 0; late > 0 && gone < this.#credit; gone = performance.now() - began) {
      Atomics.wait(this.#words, LATE, late, this.#credit - gone); // also ends when another one becomes late
      late = Atomics.load(this.#words, LATE);
    }
    this.#since = performance.now();
    this.#credit -= this.#since - began;
    return this.#since - began;
  }
}
