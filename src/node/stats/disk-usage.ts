import PQueue from 'p-queue';
import { withTimeLimit } from '../../time-limit.ts';
import type { DiskReading } from '../../workers/stats/disk.ts';

/** Shortest time between two walks of one folder. */
const FRESH_MS = 10_000;
/** A walk may take a twentieth of the time at most, so a layer of a million files is walked less often. */
const WALK_SHARE = 20;
/** How long a caller waits for the first walk of a folder. */
const FIRST_WALK_MS = 2000;
/** A folder that was not requested for so long is dropped. */
const UNUSED_MS = 600_000;
/** Concurrent walks. Slow walks are bound by the disk, so more would not be faster. */
const WALKS = 2;

interface Entry {
  reading?: DiskReading;
  /** performance.now() at the end of the last walk, and at the last request. */
  walkedAt: number;
  requestedAt: number;
  walk?: Promise<void>;
}

export interface DiskUsageOptions {
  /** Measures a folder; undefined when the folder does not exist. */
  walk: (folder: string) => Promise<DiskReading | undefined>;
  onProblem: (folder: string, error: unknown) => void;
  /** Replaces performance.now in tests. */
  now?: () => number;
  /** How long a caller waits for a folder's first walk; 2 s when left out. */
  firstWalkMs?: number;
}

/** Sizes of writable layers. Returns the last reading at once, and starts a new walk when that reading is old. */
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

  /** The last reading; undefined when the folder does not exist, or its first walk takes longer than `firstWalkMs`. */
  async of(folder: string): Promise<DiskReading | undefined> {
    this.#sweep();
    let entry = this.#entries.get(folder);
    if (!entry) {
      entry = { walkedAt: Number.NEGATIVE_INFINITY, requestedAt: 0 };
      this.#entries.set(folder, entry);
    }
    entry.requestedAt = this.#now();
    const keep = Math.max(FRESH_MS, (entry.reading?.tookMs ?? 0) * WALK_SHARE);
    if (!entry.walk && this.#now() - entry.walkedAt > keep) entry.walk = this.#walk(folder, entry);
    if (entry.walk && !entry.reading) {
      await withTimeLimit(entry.walk, this.#options.firstWalkMs ?? FIRST_WALK_MS, () => {});
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
    if (now - this.#swept < UNUSED_MS / 10) return;
    this.#swept = now;
    for (const [folder, entry] of this.#entries) {
      if (!entry.walk && now - entry.requestedAt > UNUSED_MS) this.#entries.delete(folder);
    }
  }
}
