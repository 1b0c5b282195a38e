/**
 * Addresses of deleted pods that must not be used again before their links are gone. The kernel takes the links down
 * with the namespace, in the background; this looks every few milliseconds and releases what is free, all of it in one
 * call of a worker.
 */
import type { Deferred, Release } from '../../workers/net/release.ts';
import type { CniCall } from '../../workers/net/types.ts';

/**
 * Pauses between two looks, in milliseconds: the kernel needs some 20 for one namespace, and 125 for a hundred at once.
 */
const FIRST_PAUSE_MS = 20;
const LAST_PAUSE_MS = 100;
/** After a failure: the folder of addresses may be on a disk that is full. */
const FAILURE_PAUSE_MS = 5000;
/** A link that is still there after so long is deleted: somebody keeps the namespace alive. */
const FORCE_AFTER_MS = 5000;

export interface ReleasesOptions {
  /** Releases what it can and returns the indexes of the rest. */
  release: (releases: Release[]) => Promise<{ left: number[] }>;
  /** Called after a failure, which is followed by another attempt. */
  onFailure: (error: unknown) => void;
}

interface Waiting {
  call: CniCall;
  deferred: Deferred;
  since: number;
}

export class Releases implements AsyncDisposable {
  readonly #options: ReleasesOptions;
  #waiting: Waiting[] = [];
  #pause = FIRST_PAUSE_MS;
  #timer: NodeJS.Timeout | undefined;
  /** The call of the worker in progress; never rejects. */
  #running: Promise<void> | undefined;
  #closing = false;
  #failed = false;

  constructor(options: ReleasesOptions) {
    this.#options = options;
  }

  /** Whether anything is still to be released. */
  get pending(): boolean {
    return this.#waiting.length > 0;
  }

  add(call: CniCall, deferred: Deferred): void {
    this.#waiting.push({ call, deferred, since: performance.now() });
    this.#pause = FIRST_PAUSE_MS;
    this.#schedule();
  }

  /** Resolves once all that waits now is released, or an attempt has failed. Never rejects. */
  async settled(): Promise<void> {
    this.#failed = false;
    while (this.#waiting.length > 0 && !this.#failed) {
      await this.#look();
      if (this.#waiting.length > 0 && !this.#failed)
        await new Promise((resolve) => setTimeout(resolve, FIRST_PAUSE_MS));
    }
  }

  /** Releases what waits, its links deleted if need be. What fails is found as a stray by the next start. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing = true;
    clearTimeout(this.#timer);
    await this.settled();
  }

  #schedule(): void {
    if (this.#closing || this.#waiting.length === 0) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#look().then(() => this.#schedule()), this.#pause).unref();
    this.#pause = Math.min(this.#pause * 1.5, LAST_PAUSE_MS);
  }

  #look(): Promise<void> {
    this.#running ??= this.#releaseAll().finally(() => {
      this.#running = undefined;
    });
    return this.#running;
  }

  async #releaseAll(): Promise<void> {
    const now = performance.now();
    const batch = [...this.#waiting];
    const releases = batch.map(({ call, deferred, since }) => ({
      call,
      deferred,
      force: now - since > FORCE_AFTER_MS,
    }));
    try {
      const { left } = await this.#options.release(releases);
      const done = new Set(batch.filter((_, index) => !left.includes(index)));
      this.#waiting = this.#waiting.filter((each) => !done.has(each));
    } catch (error) {
      this.#failed = true;
      this.#pause = FAILURE_PAUSE_MS;
      this.#options.onFailure(error);
    }
  }
}
