/**
 * Spreads the start of calls over turns of the event loop. One read of a connection brings up to 64 KiB, which are
 * hundreds of calls, and Node hands all of them over before anything else gets its turn. What is started of them at
 * once is bounded here; the rest waits for the next turns, with other connections served in between, and calls that
 * launch behind all others.
 */

/** Milliseconds of a turn that go to calls; a turn that has begun one lets it do its synchronous part. */
const BUDGET_MS = 3;

/** A connection, as far as it can be told to bring no more for now. */
export interface Source {
  hold(): void;
  release(): void;
}

interface Waiting {
  source: Source | undefined;
  starts: (() => void)[];
  next: number;
}

/** Which turn of the event loop it is. A `setImmediate` for each call would cost those that come alone a turn more. */
const turnNumber = () => performance.nodeTiming.uvMetricsInfo.loopCount;

export class Turns {
  #turnNumber = -1;
  /** performance.now() at which the budget of this turn ends. */
  #until = 0;
  #planned = false;
  /** Calls that launch nothing, in the order in which they came. */
  #urgent: (() => void)[] = [];
  /** Calls that launch, by connection; connections take turns. */
  readonly #launches = new Map<Source | undefined, Waiting>();

  /** Calls that wait for a turn. */
  get waiting(): number {
    let count = this.#urgent.length;
    for (const { starts, next } of this.#launches.values()) count += starts.length - next;
    return count;
  }

  /** Starts the call now, or in one of the next turns. `source` is asked for only when it has to wait. */
  run(launches: boolean, source: () => Source | undefined, start: () => void): void {
    const now = performance.now();
    const turn = turnNumber();
    if (turn !== this.#turnNumber) {
      this.#turnNumber = turn;
      this.#until = now + BUDGET_MS;
    }
    if (now < this.#until && (launches ? this.#launches.size : this.#urgent.length) === 0) {
      start();
      return;
    }
    if (launches) this.#add(source(), start);
    else this.#urgent.push(start);
    this.#plan();
  }

  #add(source: Source | undefined, start: () => void): void {
    const waiting = this.#launches.get(source);
    if (waiting) {
      waiting.starts.push(start);
      return;
    }
    this.#launches.set(source, { source, starts: [start], next: 0 });
    source?.hold();
  }

  #plan(): void {
    if (this.#planned) return;
    this.#planned = true;
    setImmediate(this.#turn);
  }

  readonly #turn = (): void => {
    this.#planned = false;
    this.#until = performance.now() + BUDGET_MS;
    this.#step();
  };

  /** Starts one call, and the next one when all that follows from it at once is done, until the turn is over. */
  readonly #step = (): void => {
    if (performance.now() >= this.#until) {
      this.#plan();
      return;
    }
    const start = this.#take();
    if (!start) return;
    start();
    // Behind the call's microtasks: a tick alone would come before them.
    queueMicrotask(() => process.nextTick(this.#step));
  };

  #take(): (() => void) | undefined {
    const urgent = this.#urgent.shift();
    if (urgent) return urgent;
    const [waiting] = this.#launches.values();
    if (!waiting) return undefined;
    const { source, starts, next } = waiting;
    this.#launches.delete(source);
    waiting.next++;
    if (waiting.next < starts.length)
      this.#launches.set(source, waiting); // behind the other connections
    else source?.release();
    return starts[next];
  }
}
