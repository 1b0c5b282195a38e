/**
 * Layers wait here for their turn, of which there are `limit` at once. Turns go round among the pulls that wait, each getting one: an
 * image of forty layers does not hold up another's single one.
 */
export class DownloadQueue {
  readonly #limit: number;
  /** What waits, by pull; the pull that is first is the next to get a turn. */
  readonly #waiting = new Map<object, (() => void)[]>();
  #running = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Runs `work` when it is the turn of `pull`, and gives its result. */
  async run<T>(pull: object, work: () => Promise<T>): Promise<T> {
    if (this.#running < this.#limit) this.#running++;
    else await this.#turn(pull);
    try {
      return await work();
    } finally {
      this.#next();
    }
  }

  #turn(pull: object): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const line = this.#waiting.get(pull);
    if (line) line.push(resolve);
    else this.#waiting.set(pull, [resolve]);
    return promise;
  }

  /** Hands the turn that is over to whoever is next. */
  #next(): void {
    for (const [pull, line] of this.#waiting) {
      this.#waiting.delete(pull);
      const start = line.shift();
      if (line.length > 0) this.#waiting.set(pull, line); // behind all others
      if (!start) continue;
      start();
      return;
    }
    this.#running--;
  }
}
