import { constants, PerformanceObserver } from 'node:perf_hooks';

const PERIOD_MS = 100;
const KEPT = 200; // the last 20 s

export type GcKind = 'minor' | 'major' | 'incremental' | 'weakcb';

const GC_KINDS: Record<number, GcKind> = {
  [constants.NODE_PERFORMANCE_GC_MINOR]: 'minor',
  [constants.NODE_PERFORMANCE_GC_MAJOR]: 'major',
  [constants.NODE_PERFORMANCE_GC_INCREMENTAL]: 'incremental',
  [constants.NODE_PERFORMANCE_GC_WEAKCB]: 'weakcb',
};

/**
 * How late this thread's timers fire. A timer of our own instead of perf_hooks.monitorEventLoopDelay: the latter gives percentiles
 * since its last reset, which two scrapers spoil for one another and which cannot be added up over nodes; a histogram can.
 * What a timer finds at an arbitrary moment is what a call finds that arrives then, so few looks are enough; each wakes a sleeping
 * process, and fifty a second cost 1 % of a core where ten cost 0.2 % (measured).
 */
export class LoopDelay implements Disposable {
  readonly #samples = new Float64Array(KEPT);
  readonly #timer: NodeJS.Timeout;
  readonly #gc: PerformanceObserver;
  #count = 0;

  /** Both are told seconds. */
  constructor(onDelay: (seconds: number) => void, onGc: (kind: GcKind, seconds: number) => void) {
    let last = performance.now();
    this.#timer = setInterval(() => {
      const now = performance.now();
      const late = Math.max(0, now - last - PERIOD_MS) / 1000;
      last = now;
      this.#samples[this.#count++ % KEPT] = late;
      onDelay(late);
    }, PERIOD_MS).unref();
    this.#gc = new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) {
        const kind = GC_KINDS[(entry as unknown as { detail: { kind: number } }).detail.kind];
        if (kind) onGc(kind, entry.duration / 1000);
      }
    });
    this.#gc.observe({ entryTypes: ['gc'] });
  }

  /** Seconds, over the last 20 s. */
  recent(): { p50: number; p99: number; max: number } {
    const sorted = this.#samples.slice(0, Math.min(this.#count, KEPT)).sort();
    const at = (q: number) => sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? 0;
    return { p50: at(0.5), p99: at(0.99), max: at(1) };
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#gc.disconnect();
  }
}
