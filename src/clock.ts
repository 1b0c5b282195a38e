/** The difference between the two clocks, in milliseconds, above which the base is taken anew. */
const DRIFT = 5;

export interface Instant {
  /** Whole seconds since the epoch. */
  seconds: number;
  /** 0 to 999999999. */
  nanos: number;
}

/**
 * Wall-clock time in nanoseconds. Date.now() has milliseconds only; process.hrtime() has nanoseconds but no date. The
 * clock adds the monotonic time to a base from the wall clock, and takes a new base when an operator or NTP has set the
 * wall clock.
 */
export class Clock {
  readonly #wall: () => number;
  readonly #monotonic: () => [seconds: number, nanos: number];
  #baseSeconds = 0;
  #baseNanos = 0;

  /** `wall` in milliseconds since the epoch; both are given by tests alone. */
  constructor(wall: () => number = Date.now, monotonic: () => [seconds: number, nanos: number] = process.hrtime) {
    this.#wall = wall;
    this.#monotonic = monotonic;
    this.#setBase(wall(), monotonic());
  }

  now(): Instant {
    const tick = this.#monotonic();
    const wall = this.#wall();
    const instant = this.#at(tick);
    if (Math.abs(instant.seconds * 1e3 + instant.nanos / 1e6 - wall) <= DRIFT) return instant;
    this.#setBase(wall, tick);
    return this.#at(tick);
  }

  #at([seconds, nanos]: [number, number]): Instant {
    const sum = this.#baseNanos + nanos;
    const carry = sum >= 1e9 ? 1 : 0;
    return { seconds: this.#baseSeconds + seconds + carry, nanos: sum - carry * 1e9 };
  }

  #setBase(wall: number, [seconds, nanos]: [number, number]): void {
    const wallSeconds = Math.floor(wall / 1e3);
    const difference = (wall - wallSeconds * 1e3) * 1e6 - nanos;
    const borrow = difference < 0 ? 1 : 0;
    this.#baseSeconds = wallSeconds - seconds - borrow;
    this.#baseNanos = difference + borrow * 1e9;
  }
}

const clock = new Clock();

/** Nanoseconds since the epoch, the unit of every time in CRI. Two events in one millisecond keep their order. */
export function nowNs(): bigint {
  const { seconds, nanos } = clock.now();
  return BigInt(seconds) * 1_000_000_000n + BigInt(nanos);
}
