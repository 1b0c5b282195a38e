/** A rate over less than this says more about the scheduler than about the container. */
const WINDOW_NS = 1_000_000_000n;
/** A rate over more than this is history. */
const STALE_NS = 600_000_000_000n;

interface Sample {
  timestamp: bigint;
  usageNs: bigint;
  /** The rate found when this sample was taken. */
  nanoCores?: bigint;
}

/**
 * CPU use as a rate, from the samples that clients' own calls leave behind: the kubelet asks every ten seconds, so the second call
 * knows. Nothing is sampled in between.
 */
export class CpuRates {
  readonly #samples = new Map<string, Sample>();
  #swept = 0n;

  /** Core-nanoseconds per second since the last sample that is at least a second older; undefined when there is none. */
  nanoCores(id: string, timestamp: bigint, usageNs: bigint): bigint | undefined {
    this.#sweep(timestamp);
    const last = this.#samples.get(id);
    // A counter that runs backwards is another cgroup's: the container was started again.
    if (!last || usageNs < last.usageNs || timestamp < last.timestamp) {
      this.#samples.set(id, { timestamp, usageNs });
      return undefined;
    }
    const elapsed = timestamp - last.timestamp;
    // Callers in quick succession get the same answer, and do not shorten the window for one another.
    if (elapsed < WINDOW_NS) return last.nanoCores;
    const nanoCores = ((usageNs - last.usageNs) * 1_000_000_000n) / elapsed;
    this.#samples.set(id, { timestamp, usageNs, nanoCores });
    return nanoCores;
  }

  /** Samples held, for tests. */
  get size(): number {
    return this.#samples.size;
  }

  #sweep(now: bigint): void {
    if (now - this.#swept < STALE_NS / 10n) return;
    this.#swept = now;
    for (const [id, { timestamp }] of this.#samples) if (now - timestamp > STALE_NS) this.#samples.delete(id);
  }
}
