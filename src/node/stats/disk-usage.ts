import { setTimeout as sleep } from 'node:timers/promises';
import PQueue from 'p-queue';
import type { DiskReading } from '../../workers/stats/disk.ts';

const FRESH_MS = 10_000;
/** Walking may take a twentieth of the time at most: a layer of a million files is looked at less often. */
const WALK_SHARE = 20;
/** How long the first caller waits for a walk. */
const PATIENCE_MS = 2000;
const FORGET_MS = 600_000;
/** Walks at once. They are disk-bound where they are slow. */
const WALKS = 2;

interface Entry {
  reading?: DiskReading;
  /** performance.now() of the last walk's end, and of the last question. */
  walkedAt: number;
  askedAt: number;
  walk?: Promise<void>;
}

export interface DiskUsageOptions {
  walk: (folder: string) => Promise<DiskReading | undefined>;
  onProblem: (folder: string, error: unknown) => void;
  /** For tests; performance.now otherwise. */
  now?: () => number;
  patienceMs?: number;
}

/** Sizes of writable layers: the last known one at once, and a new walk behind it when that one is old. */
export class DiskUsage {
  readonly #options: DiskUsageOptions;
  readonly #now: () => number;
  readonly #entries = new Map<string, Entry>();
  readonly #walks = new PQueue({ concurrency: WALKS });
  #swept = 0;

  constructor(options: DiskUsageOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
  }

  /** Undefined when nothing is known in time, or the folder is gone. */
  async of(folder: string): Promise<DiskReading | undefined> {
    this.#sweep();
    let entry = this.#entries.get(folder);
    if (!entry) {
      entry = { walkedAt: Number.NEGATIVE_INFINITY, askedAt: 0 };
      this.#entries.set(folder, entry);
    }
    entry.askedAt = this.#now();
    const keep = Math.max(FRESH_MS, (entry.reading?.tookMs ?? 0) * WALK_SHARE);
    if (!entry.walk && this.#now() - entry.walkedAt > keep) entry.walk = this.#walk(folder, entry);
    if (entry.walk && !entry.reading) {
      const patience = new AbortController();
      await Promise.race([
        entry.walk,
        sleep(this.#options.patienceMs ?? PATIENCE_MS, undefined, { signal: patience.signal, ref: false }),
      ]);
      patience.abort();
    }
    return entry.reading;
  }

  async #walk(folder: string, entry: Entry): Promise<void> {
    try {
      entry.reading = await this.#walks.add(() => this.#options.walk(folder));
    } catch (error) {
      this.#options.onProblem(folder, error);
    } finally {
      entry.walkedAt = this.#now();
      entry.walk = undefined;
    }
  }

  #sweep(): void {
    const now = this.#now();
    if (now - this.#swept < FORGET_MS / 10) return;
    this.#swept = now;
    for (const [folder, entry] of this.#entries) {
      if (!entry.walk && now - entry.askedAt > FORGET_MS) this.#entries.delete(folder);
    }
  }
}
