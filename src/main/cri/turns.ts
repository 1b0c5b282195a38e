/**
 * Spreads the start of calls over turns of the event loop. One read of a connection brings tens of calls
 * (stream-room.ts), and Node hands all of them over before anything else gets its turn. What is started of them at once
 * is bounded here; the rest waits for the next turns, with other connections served in between, and calls that launch
 * behind all others.
 */
import { afterwards, BUDGET_MS, turnNumber } from '../../node/threads/turn.ts';

/**
 * After so many calls that launch nothing comes one that launches, so that a client that never pauses holds up none.
 */
const URGENT_IN_A_ROW = 16;

/**
 * Calls of a turn that start as they come, without waiting for what the ones before do. What a call does, it does when
 * the read that brought it is over, so that its time is not known before.
 */
const AT_ONCE = 4;

/** A queue whose head is taken without moving the rest, of which there may be thousands. */
class Waiters {
  #starts: (() => void)[] = [];
  #next = 0;

  get size(): number {
    return this.#starts.length - this.#next;
  }

  push(start: () => void): void {
    this.#starts.push(start);
  }

  take(): (() => void) | undefined {
    const start = this.#starts[this.#next++];
    if (this.#next * 2 >= this.#starts.length) {
      this.#starts = this.#starts.slice(this.#next);
      this.#next = 0;
    }
    return start;
  }
}

export class Turns {
  #turnNumber = -1;
  /** performance.now() at which the budget of this turn ends. */
  #until = 0;
  #planned = false;
  /** Calls that were started in this turn and have not begun their work, see {@link begun}. */
  #starting = 0;
  /** Calls that launch nothing, in the order in which they came. */
  readonly #urgent = new Waiters();
  #urgentInARow = 0;
  /** Calls that launch, by connection; connections take turns. */
  readonly #launches = new Map<object | undefined, Waiters>();

  /** Whether calls wait for a turn. */
  get waits(): boolean {
    return this.#urgent.size > 0 || this.#launches.size > 0;
  }

  /** How many do. */
  get waiting(): number {
    let count = this.#urgent.size;
    for (const starts of this.#launches.values()) count += starts.size;
    return count;
  }

  /** Starts a connection's call now, or in one of the next turns. */
  run(launches: boolean, connection: object | undefined, start: () => void): void {
    const now = performance.now();
    const turn = turnNumber();
    if (turn !== this.#turnNumber) {
      this.#turnNumber = turn;
      this.#until = now + BUDGET_MS;
      this.#starting = 0;
    }
    if (now < this.#until && this.#starting < AT_ONCE && (launches ? this.#launches.size : this.#urgent.size) === 0) {
      this.#starting++;
      start();
      return;
    }
    if (launches) this.#add(connection, start);
    else this.#urgent.push(start);
    this.#plan();
  }

  #add(connection: object | undefined, start: () => void): void {
    const starts = this.#launches.get(connection) ?? new Waiters();
    starts.push(start);
    this.#launches.set(connection, starts);
  }

  #plan(): void {
    if (this.#planned) return;
    this.#planned = true;
    setImmediate(this.#turn);
  }

  readonly #turn = (): void => {
    this.#planned = false;
    this.#until = performance.now() + BUDGET_MS;
    this.#starting = 0;
    this.#step();
  };

  /**
   * A call has done the synchronous part of its work, some ticks after its start. One whose message has not come, or
   * that is no call after all, never says so: the next turn goes on without it.
   */
  begun(): void {
    if (this.#starting === 0) return;
    this.#starting--;
    if (this.waits) afterwards(this.#step);
  }

  /** Starts one call, and the next one when all that follows from it at once is done, until the turn is over. */
  readonly #step = (): void => {
    if (!this.waits) return;
    this.#plan();
    if (this.#starting > 0 || performance.now() >= this.#until) return;
    this.#starting++;
    this.#take()?.();
  };

  #take(): (() => void) | undefined {
    const [first] = this.#launches;
    if (!first || (this.#urgent.size > 0 && this.#urgentInARow < URGENT_IN_A_ROW)) {
      this.#urgentInARow++;
      return this.#urgent.take();
    }
    this.#urgentInARow = 0;
    const [connection, starts] = first;
    const start = starts.take();
    this.#launches.delete(connection);
    if (starts.size > 0) this.#launches.set(connection, starts); // behind the other connections
    return start;
  }
}
