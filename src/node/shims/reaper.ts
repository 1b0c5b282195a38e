import { reap as reapNow } from '../../sys/spawn.ts';

const FIRST_LOOK_MS = 1;
const LAST_LOOK_MS = 5000;

/**
 * Collects shims that are children of the daemon. When one ends its connection closes, so nothing is looked at before that; from
 * then on the looks become rarer until the process is gone (a connection may also close while it goes on).
 */
export class ShimReaper implements Disposable {
  readonly #timers = new Map<number, NodeJS.Timeout>();

  /** The process has ended, is about to, or may have. */
  reap(pid: number): void {
    if (!this.#timers.has(pid)) this.#look(pid, FIRST_LOOK_MS);
  }

  [Symbol.dispose](): void {
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
  }

  #look(pid: number, afterMs: number): void {
    const look = () => {
      this.#timers.delete(pid);
      if (!reapNow(pid)) this.#look(pid, Math.min(afterMs * 2, LAST_LOOK_MS));
    };
    this.#timers.set(pid, setTimeout(look, afterMs).unref());
  }
}
