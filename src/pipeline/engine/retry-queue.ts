import { explain } from '../../errors.ts';

export interface RetryQueueOptions {
  /** Milliseconds before the first retry; doubled each time, up to the last. */
  firstDelayMs: number;
  lastDelayMs: number;
  /** Called when `onFailure` of a clean-up throws; the clean-up is tried again all the same. */
  onProblem?: (id: string, error: unknown) => void;
  /** Called after each retry. */
  onRetry?: (outcome: 'ok' | 'error') => void;
}

/**
 * Tries failed clean-ups again, with growing pauses, until they succeed. What is to be done stands in the rows, so a
 * restart of the daemon only adds them anew.
 */
export class RetryQueue implements Disposable {
  readonly #options: RetryQueueOptions;
  readonly #timers = new Map<string, NodeJS.Timeout>();

  constructor(options: RetryQueueOptions) {
    this.#options = options;
  }

  /** Clean-ups that wait or run. */
  get pending(): number {
    return this.#timers.size;
  }

  /**
   * Repeats `work` for the row with this id, after `firstDelayMs` (0: at once) and then with growing pauses, until it
   * succeeds. A second call for the same id changes nothing. `onFailure` gets the reason of each failure and how many
   * there were.
   */
  add(
    id: string,
    work: () => Promise<void>,
    onFailure: (reason: string, attempts: number) => void,
    firstDelayMs = this.#options.firstDelayMs,
  ): void {
    if (this.#timers.has(id)) return;
    const plan = (attempt: number) => {
      const backOff = this.#options.firstDelayMs * 2 ** attempt;
      const delay = attempt === 0 ? firstDelayMs : Math.min(backOff, this.#options.lastDelayMs);
      const again = async () => {
        try {
          await work();
          if (this.#timers.get(id) === timer) this.#timers.delete(id);
          this.#options.onRetry?.('ok');
        } catch (error) {
          this.#options.onRetry?.('error');
          try {
            onFailure(explain(error), attempt + 1);
          } catch (problem) {
            this.#options.onProblem?.(id, problem);
          }
          // Dropped or disposed of meanwhile: nobody wants a further try.
          if (this.#timers.get(id) === timer) plan(attempt + 1);
        }
      };
      const timer = setTimeout(again, delay).unref();
      this.#timers.set(id, timer);
    };
    plan(0);
  }

  /** Removes what waits for this id: its owner removed the thing another way. */
  drop(id: string): void {
    clearTimeout(this.#timers.get(id));
    this.#timers.delete(id);
  }

  [Symbol.dispose](): void {
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
  }
}
