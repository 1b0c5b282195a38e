interface Line {
  waiting: (() => void)[];
  urgent: boolean;
}

/**
 * Layers wait here for one of `limit` turns. Turns go round among the pulls that wait, so that an image of forty layers
 * does not hold up another's single one; pulls for kube-system come before all others.
 */
export class DownloadQueue {
  #limit: number;
  /** What waits, by pull; the first pull gets the next turn of its kind. */
  readonly #lines = new Map<object, Line>();
  #running = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Another limit from now on. What runs goes on, also above a lower limit. */
  set limit(limit: number) {
    this.#limit = limit;
    while (this.#running < this.#limit && this.#next()) this.#running++;
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
    // Above a limit that was lowered meanwhile nobody takes the turn.
    if (this.#running > this.#limit || !this.#next()) this.#running--;
  }

  /** Starts the layer whose turn it is; false when none waits. */
  #next(): boolean {
    const lines = [...this.#lines];
    const [pull, line] = lines.find(([, { urgent }]) => urgent) ?? lines[0] ?? [];
    if (!pull || !line) return false;
    this.#lines.delete(pull);
    const start = line.waiting.shift();
    if (line.waiting.length > 0) this.#lines.set(pull, line); // behind all others
    start?.();
    return true;
  }
}
