export interface HeartbeatOptions {
  /** Sends a ping to the worker, which answers every one. */
  ping(): void;
  /** Called once, when a ping has had no answer for `limitMs`. */
  onSilent(): void;
  /** Milliseconds between two looks. */
  intervalMs: number;
  /** Milliseconds that an answer may take. */
  limitMs: number;
  /** Replaces performance.now in tests. */
  now?: () => number;
}

/**
 * Finds out whether a worker still serves its event loop. The time to answer counts from a ping, never from the last
 * message: a process that stood still (SIGSTOP, a frozen cgroup, a suspended machine) finds a long silence that is
 * nobody's fault. A look that is late by more than an interval shows such a pause, and the worker gets a new ping with
 * the whole time to answer it.
 */
export class Heartbeat implements Disposable {
  readonly #options: HeartbeatOptions;
  readonly #now: () => number;
  readonly #timer: NodeJS.Timeout;
  #lastLook: number;
  /** When the ping was sent that has no answer yet. */
  #unanswered: number | undefined;

  constructor(options: HeartbeatOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    this.#lastLook = this.#now();
    this.#timer = setInterval(() => this.#look(), options.intervalMs).unref();
  }

  /** Any message of the worker shows that it runs. */
  answered(): void {
    this.#unanswered = undefined;
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }

  #look(): void {
    const { intervalMs, limitMs, ping, onSilent } = this.#options;
    const now = this.#now();
    const stoodStill = now - this.#lastLook > 2 * intervalMs;
    this.#lastLook = now;
    if (this.#unanswered === undefined || stoodStill) {
      this.#unanswered = now;
      ping();
    } else if (now - this.#unanswered >= limitMs) {
      clearInterval(this.#timer);
      onSilent();
    }
  }
}
