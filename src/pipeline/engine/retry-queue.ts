import { explain } from '../../errors.ts';

export interface CleanerOptions {
  /** Milliseconds before the first retry; doubled each time, up to the last. */
  firstDelayMs: number;
  lastDelayMs: number;
  /** Each retry, when it is over. */
  onRetry?: (outcome: 'ok' | 'error') => void;
}

/**
 * Tries failed clean-ups again, with growing pauses, until they succeed. What is to be done stands in the rows, so a restart of
 * the daemon only hands them in again.
 */
export class Cleaner implements Disposable {
  readonly #options: CleanerOptions;
  readonly #timers = new Map<string, NodeJS.Timeout>();

  constructor(options: CleanerOptions) {
    this.#options = options;
  }

  get pending(): number {
    return this.#timers.size;
  }

  /**
   * Keeps trying `clean` for the thing called `id`, after `firstDelayMs` (0: at once) and then with growing pauses; a second
   * call for the same id changes nothing. `onFailure` hears of each failure.
   */
  add(
    id: string,
    clean: () => Promise<void>,
    onFailure: (reason: string, attempt: number) => void,
    firstDelayMs = this.#options.firstDelayMs,
  ): void {
    if (this.#timers.has(id)) return;
    const plan = (attempt: number) => {
      const backOff = this.#options.firstDelayMs * 2 ** attempt;
      const delay = attempt === 0 ? firstDelayMs : Math.min(backOff, this.#options.lastDelayMs);
      const again = async () => {
        try {
          await clean();
          this.#timers.delete(id);
          this.#options.onRetry?.('ok');
        } catch (error) {
          this.#options.onRetry?.('error');
          onFailure(explain(error), attempt + 1);
          plan(attempt + 1);
        }
      };
      this.#timers.set(id, setTimeout(again, delay).unref());
    };
    plan(0);
  }

  /** Drops what waits: the thing went another way (its owner removed it by hand), or the daemon ends. */
  drop(id: string): void {
    clearTimeout(this.#timers.get(id));
    this.#timers.delete(id);
  }

  [Symbol.dispose](): void {
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
  }
}
