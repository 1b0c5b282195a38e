/** Where the time of a start goes, for its last log line. */
export class Phases {
  readonly #seconds: Record<string, number> = {};
  /** Milliseconds since the process began. */
  #last = 0;

  /** Gives the time since the last phase ended, or since the process began, to this one. */
  end(phase: string): void {
    const now = performance.now();
    this.#seconds[phase] = (now - this.#last) / 1000;
    this.#last = now;
  }

  /** Seconds by phase, and of all of them as `total`, to the millisecond. */
  get seconds(): Record<string, number> {
    const all = Object.entries({ ...this.#seconds, total: this.#last / 1000 });
    return Object.fromEntries(all.map(([phase, seconds]) => [phase, Math.round(seconds * 1000) / 1000]));
  }
}
