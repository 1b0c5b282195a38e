/** Shortest window of a rate: over less, the scheduler's granularity dominates. */
const WINDOW_NS = 1_000_000_000n;
/** Samples of this age are dropped. */
const STALE_NS = 600_000_000_000n;

interface UsageSample {
  /** Nanoseconds of a clock without steps. */
  tickNs: bigint;
  usageNs: bigint;
  /** The rate that was computed with this sample. */
  nanoCores?: bigint;
}

/**
 * CPU use as a rate between two calls of the client, by a clock without steps (CLOCK_MONOTONIC). The kubelet calls
 * every ten seconds, so its second call returns a rate; there is no sampling in the background.
 */
export class CpuRates {
  readonly #samples = new Map<string, UsageSample>();
  #swept = 0n;

  /** Core-nanoseconds per second since the last sample that is at least one second older; undefined without one. */
  nanoCores(id: string, tickNs: bigint, usageNs: bigint): bigint | undefined {
    this.#sweep(tickNs);
    const last = this.#samples.get(id);
    // A counter that decreases belongs to a new cgroup: the container was started again.
    if (!last || usageNs < last.usageNs || tickNs < last.tickNs) {
      this.#samples.set(id, { tickNs, usageNs });
      return undefined;
    }
    const elapsed = tickNs - last.tickNs;
    // Calls within the window return the same rate and keep the sample, so that they do not shorten the window.
    if (elapsed < WINDOW_NS) return last.nanoCores;
    const nanoCores = ((usageNs - last.usageNs) * 1_000_000_000n) / elapsed;
    this.#samples.set(id, { tickNs, usageNs, nanoCores });
    return nanoCores;
  }

  /** Number of samples, for tests. */
  get size(): number {
    return this.#samples.size;
  }

  #sweep(now: bigint): void {
    if (now - this.#swept < STALE_NS / 10n) return;
    this.#swept = now;
    for (const [id, { tickNs }] of this.#samples) if (now - tickNs > STALE_NS) this.#samples.delete(id);
  }
}
