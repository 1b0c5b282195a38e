import type { Clock } from '../../clock.ts';

const ZERO = 48;
const NINE = 57;
const DATE = 19; // "2016-10-06T00:17:09"
const LAST_DIGIT = 28;

/** Length of `2016-10-06T00:17:09.669794202Z`. */
export const STAMP_SIZE = 30;

/**
 * The timestamp of a log line, kept as bytes. Each stamp of a file is later than the one before, even when the clock is
 * set back, so that lines can be sorted after a merge.
 */
export class Stamp {
  readonly bytes: Buffer = Buffer.alloc(STAMP_SIZE);
  readonly #clock: Clock;
  #seconds = 0;
  /** The nanoseconds in `bytes`. */
  #nanos = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Sets the stamp to the current time, or one nanosecond forward where that is not later than the last stamp. */
  refresh(): void {
    const now = this.#clock.now();
    if (now.seconds < this.#seconds || (now.seconds === this.#seconds && now.nanos <= this.#nanos)) this.step();
    else this.#write(now.seconds, now.nanos);
  }

  /** Sets the stamp one nanosecond forward. */
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
