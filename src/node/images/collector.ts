import { statfs } from 'node:fs/promises';
import { explain } from '../../errors.ts';
import type { Log } from '../observe/log.ts';
import type { ImageRow } from './rows.ts';

/** What images may take. */
export interface ImageLimits {
  /** Bytes of layers and blobs; 0: no limit. */
  quotaBytes: number;
  /** Fullness of the file system in percent at which images are removed, and at which no more are; 0: never. */
  highPercent: number;
  lowPercent: number;
}

export interface CollectorOptions {
  /** The daemon's root folder. */
  root: string;
  /** Read anew each time. */
  limits: () => ImageLimits;
  /** Images whose removal nobody minds: unpinned, with names. */
  candidates: () => ImageRow[];
  /** Ids of the images that something runs from. */
  used: () => Promise<Set<string>>;
  /** Bytes that images take. */
  bytes: () => Promise<number>;
  /** Removes an image under all its names, and waits until its layers are gone. */
  remove: (row: ImageRow) => Promise<void>;
  onCollected: (removed: readonly ImageRow[], bytes: number) => void;
  log: Log;
  /** For tests: how full the file system is. */
  fullness?: () => Promise<number>;
  /** For tests: milliseconds that only grow. */
  now?: () => number;
}

/** How often the limits are looked at, besides after each pull. */
const EVERY_MS = 60_000;
/** An image stays for so long after its pull or its last use: its pod may be about to start. */
const MIN_AGE_MS = 120_000;

/**
 * Removes images that nobody uses, those first whose last use lies furthest back, while images take more than their
 * quota or the file system is too full. A pull in flight is safe: its layers are held, and an image that has just come
 * is too young. Ages are those of the monotonic clock, since the wall clock may be set: an image counts as used at the
 * daemon's start where this daemon has not seen it used.
 */
export class Collector implements Disposable {
  readonly #options: CollectorOptions;
  /** When an image was last pulled or seen in use, by {@link #now}; what the daemon before has seen is lost. */
  readonly #usedAt = new Map<string, number>();
  readonly #now: () => number;
  readonly #began: number;
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<void> | undefined;
  #ended = false;

  constructor(options: CollectorOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    this.#began = this.#now();
  }

  /** An image has just come, or come once more. */
  pulled(id: string): void {
    this.#usedAt.set(id, this.#now());
  }

  /** Begins to look every minute. */
  start(): void {
    this.#timer ??= setInterval(() => void this.check(), EVERY_MS).unref();
  }

  /** Looks no more; what it is removing now is the last. */
  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#ended = true;
  }

  /** Looks at the limits now, and removes images where they are exceeded. Failures go to the log. */
  check(): Promise<void> {
    this.#running ??= this.#check()
      .catch((error: unknown) =>
        this.#options.log.error({ reason: explain(error) }, 'the limits of images cannot be kept'),
      )
      .finally(() => {
        this.#running = undefined;
      });
    return this.#running;
  }

  /**
   * Removes unused images, oldest use first, until `enough`; returns them. `minAgeMs` keeps those that were pulled or
   * used since.
   */
  async collect(enough: () => Promise<boolean>, minAgeMs = 0): Promise<ImageRow[]> {
    const { candidates, used, remove } = this.#options;
    const removed: ImageRow[] = [];
    while (!this.#ended && !(await enough())) {
      // Asked anew for each: a pod may have come meanwhile.
      const inUse = await used();
      const now = this.#now();
      for (const id of inUse) this.#usedAt.set(id, now);
      const unused = candidates().filter(({ id }) => !inUse.has(id));
      const old = unused.filter(({ id }) => now - this.#lastUse(id) >= minAgeMs);
      // Those that this daemon has not seen used by their last pull: a clock that was set can only change their order.
      const [oldest] = old.sort(
        (one, other) => this.#lastUse(one.id) - this.#lastUse(other.id) || (one.pulledAt ?? 0) - (other.pulledAt ?? 0),
      );
      if (!oldest) break;
      removed.push({ ...oldest, names: [...oldest.names] });
      await remove(oldest);
      this.#usedAt.delete(oldest.id);
    }
    return removed;
  }

  #lastUse(id: string): number {
    return this.#usedAt.get(id) ?? this.#began;
  }

  async #check(): Promise<void> {
    const { limits, used, bytes, onCollected, log } = this.#options;
    const { quotaBytes, highPercent, lowPercent } = limits();
    if (this.#ended || (quotaBytes === 0 && highPercent === 0)) return;
    const inUse = await used();
    const present = new Set([...inUse, ...this.#options.candidates().map(({ id }) => id)]);
    for (const id of this.#usedAt.keys()) if (!present.has(id)) this.#usedAt.delete(id);
    for (const id of inUse) this.#usedAt.set(id, this.#now());
    const fullness = highPercent > 0 ? await this.#fullness() : 0;
    const isFull = highPercent > 0 && fullness >= highPercent;
    const before = await bytes();
    if (!isFull && (quotaBytes === 0 || before <= quotaBytes)) return;
    const enough = async () => {
      if (quotaBytes > 0 && (await bytes()) > quotaBytes) return false;
      return !isFull || (await this.#fullness()) <= lowPercent;
    };
    const removed = await this.collect(enough, MIN_AGE_MS);
    const freed = before - (await bytes());
    onCollected(removed, freed);
    if (removed.length > 0)
      log.info(
        { images: removed.map(({ names, id }) => names[0] ?? id), freed },
        'images that nobody uses were removed',
      );
    if (!this.#ended && !(await enough()))
      log.warn(
        { bytes: await bytes(), quotaBytes, fullness: await this.#fullness() },
        'images take more than they may, and all are in use or new',
      );
  }

  async #fullness(): Promise<number> {
    if (this.#options.fullness) return this.#options.fullness();
    const { blocks, bavail, bfree } = await statfs(this.#options.root);
    // As df counts: of what others than root may use.
    const taken = blocks - bfree;
    return taken + bavail === 0 ? 0 : (taken / (taken + bavail)) * 100;
  }
}
