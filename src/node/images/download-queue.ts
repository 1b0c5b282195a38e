interface Line {
  waiting: (() => void)[];
  urgent: boolean;
}

/**
 * Layers wait here for one of `limit` turns. Turns go round among the pulls that wait, so that an image of forty layers
 * does not hold up another's single one; pulls for kube-system come before all others.
 */
export class DownloadQueue {
  readonly #limit: number;
  /** What waits, by pull; the first pull gets the next turn of its kind. */
  readonly #lines = new Map<object, Line>();
  #running = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Layers that wait. */
  get length(): number {
    return [...this.#lines.values()].reduce((sum, { waiting }) => sum + waiting.length, 0);
  }

  /** Runs `work` when it is the turn of `pull`, and returns its result. */
  async run<T>(pull: object, work: () => Promise<T>, urgent = false): Promise<T> {
    if (this.#running < this.#limit) this.#running++;
    else await this.#turn(pull, urgent);
    try {
      return await work();
    } finally {
      this.#passOn();
    }
  }

  #turn(pull: object, urgent: boolean): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const line = this.#lines.get(pull);
    if (line) line.waiting.push(resolve);
    else this.#lines.set(pull, { waiting: [resolve], urgent });
    return promise;
  }

  #passOn(): void {
    const lines = [...this.#lines];
    const [pull, line] = lines.find(([, { urgent }]) => urgent) ?? lines[0] ?? [];
    if (!pull || !line) {
      this.#running--;
      return;
    }
    this.#lines.delete(pull);
    const start = line.waiting.shift();
    if (line.waiting.length > 0) this.#lines.set(pull, line); // behind all others
    start?.();
  }
}
