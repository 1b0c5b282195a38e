import { type GcKind, watchCollections } from '../../sys/collections.ts';

const PERIOD_MS = 100;
const KEPT = 200; // the last 20 s

/**
 * Measures the delay of this thread's event loop, as the lateness of a timer, and the pauses for garbage collection.
 *
 * perf_hooks.monitorEventLoopDelay is not used: it has percentiles since its last reset, so two scrapers disturb each
 * other, and percentiles of several nodes cannot be aggregated, as histograms can. Ten samples a second are enough,
 * because a timer at an arbitrary moment waits as long as a call that arrives then. Each sample wakes an idle process:
 * fifty a second cost 1 % of a core, ten 0.2 % (measured).
 */
export class LoopDelay implements Disposable {
  readonly #samples = new Float64Array(KEPT);
  readonly #timer: NodeJS.Timeout;
  readonly #gc: Disposable;
  #count = 0;

  /** `onDelay` is called ten times a second, `onGc` after each garbage collection. */
  constructor(onDelay: (seconds: number) => void, onGc: (kind: GcKind, seconds: number) => void) {
    let last = performance.now();
    this.#timer = setInterval(() => {
      const now = performance.now();
      const late = Math.max(0, now - last - PERIOD_MS) / 1000;
      last = now;
      this.#samples[this.#count++ % KEPT] = late;
      onDelay(late);
    }, PERIOD_MS).unref();
    this.#gc = watchCollections(onGc);
  }

  /** Delays in seconds, over the last 20 s. */
  recent(): { p50: number; p99: number; max: number } {
    const sorted = this.#samples.slice(0, Math.min(this.#count, KEPT)).sort();
    const at = (q: number) => sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? 0;
    return { p50: at(0.5), p99: at(0.99), max: at(1) };
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#gc[Symbol.dispose]();
  }
}
