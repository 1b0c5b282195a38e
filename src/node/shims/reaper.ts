import { reap as reapNow } from '../../sys/wait.ts';

/** A shim ends within some milliseconds after its connection; nobody waits for this. */
const FIRST_DELAY_MS = 10;
const MAX_DELAY_MS = 5000;

/**
 * Collects with waitpid the shims that are children of the daemon. A shim's connection closes when the process ends, so
 * the polling starts only then. Its interval doubles, since a connection may also close while the process goes on.
 */
export class ShimReaper implements Disposable {
  readonly #timers = new Map<number, NodeJS.Timeout>();

  /**
   * Polls until the process has ended and is collected. Call it when the connection has closed; it may be called twice.
   */
  reap(pid: number): void {
    if (!this.#timers.has(pid)) this.#poll(pid, FIRST_DELAY_MS);
  }

  [Symbol.dispose](): void {
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
  }

  #poll(pid: number, afterMs: number): void {
    const attempt = async () => {
      const ended = await reapNow(pid);
      // Not after disposal.
      if (!this.#timers.delete(pid) || ended) return;
      this.#poll(pid, Math.min(afterMs * 2, MAX_DELAY_MS));
    };
    this.#timers.set(pid, setTimeout(() => void attempt(), afterMs).unref());
  }
}
