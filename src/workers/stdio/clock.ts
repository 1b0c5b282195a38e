/**
 * Nanoseconds since the epoch that never go back. Node's wall clock has milliseconds only; its monotonic clock has nanoseconds
 * but no date. The one is laid on the other, and laid anew when somebody sets the wall clock.
 */

/** How far the two clocks may drift apart before the wall clock is believed again, in milliseconds. */
const DRIFT = 5;

export interface Instant {
  /** Whole seconds since the epoch. */
  seconds: number;
  /** 0 to 999999999. */
  nanos: number;
}

export class Clock {
  #baseSeconds = 0;
  #baseNanos = 0;

  constructor() {
    this.#lay(Date.now(), process.hrtime());
  }

  now(): Instant {
    const tick = process.hrtime();
    const wall = Date.now();
    const instant = this.#at(tick);
    if (Math.abs(instant.seconds * 1e3 + instant.nanos / 1e6 - wall) <= DRIFT) return instant;
    this.#lay(wall, tick);
    return this.#at(tick);
  }

  #at([seconds, nanos]: [number, number]): Instant {
    const sum = this.#baseNanos + nanos;
    const carry = sum >= 1e9 ? 1 : 0;
    return { seconds: this.#baseSeconds + seconds + carry, nanos: sum - carry * 1e9 };
  }

  #lay(wall: number, [seconds, nanos]: [number, number]): void {
    const wallSeconds = Math.floor(wall / 1e3);
    const difference = (wall - wallSeconds * 1e3) * 1e6 - nanos;
    const borrow = difference < 0 ? 1 : 0;
    this.#baseSeconds = wallSeconds - seconds - borrow;
    this.#baseNanos = difference + borrow * 1e9;
  }
}

const ZERO = 48;
const NINE = 57;
const DATE = 19; // "2016-10-06T00:17:09"
const LAST_DIGIT = 28;

/** Bytes of `2016-10-06T00:17:09.669794202Z`. */
export const STAMP_SIZE = 30;

/**
 * The time as it stands in a log line, kept as bytes: no two stamps of one file are equal and each is later than the one
 * before, whatever the clock does, so that lines can be put back in order after a merge.
 */
export class Stamp {
  readonly bytes: Buffer = Buffer.alloc(STAMP_SIZE);
  readonly #clock: Clock;
  #seconds = 0;
  /** Nanoseconds of the stamp in `bytes`. */
  #nanos = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Moves to the present, or one nanosecond on where the present is not later than the last stamp. */
  refresh(): void {
    const now = this.#clock.now();
    if (now.seconds < this.#seconds || (now.seconds === this.#seconds && now.nanos <= this.#nanos)) this.step();
    else this.#write(now.seconds, now.nanos);
  }

  /** Moves one nanosecond on. */
  step(): void {
    if (this.#nanos === 999_999_999) {
      this.#write(this.#seconds + 1, 0);
      return;
    }
    this.#nanos++;
    for (let at = LAST_DIGIT; ; at--) {
      const digit = this.bytes[at] ?? ZERO;
      if (digit !== NINE) {
        this.bytes[at] = digit + 1;
        return;
      }
      this.bytes[at] = ZERO;
    }
  }

  #write(seconds: number, nanos: number): void {
    if (seconds !== this.#seconds) {
      this.bytes.write(new Date(seconds * 1e3).toISOString().slice(0, DATE), 0, 'latin1');
      this.bytes[DATE] = 46; // .
      this.bytes[LAST_DIGIT + 1] = 90; // Z
    }
    this.#seconds = seconds;
    this.#nanos = nanos;
    let rest = nanos;
    for (let at = LAST_DIGIT; at > DATE; at--) {
      this.bytes[at] = ZERO + (rest % 10);
      rest = Math.floor(rest / 10);
    }
  }
}
