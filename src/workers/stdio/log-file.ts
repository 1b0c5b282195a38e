import { withTimeLimit } from '../../time-limit.ts';
import type { LineSink } from './log-lines.ts';
import { type LogTarget, openLogTarget } from './log-target.ts';

/** A write that takes longer shows that the kernel makes writers wait (milliseconds). */
const SLOW_MS = 10;
/** After such a write the file is written in libuv's pool for so long (milliseconds). */
const SLOW_FOR_MS = 10_000;
/** How long the end of a container, or a rotation, waits for a file that takes no more (milliseconds). */
const SETTLE_MS = 5000;
/** A buffer up to this size is kept between writes; a larger one is freed after the burst that needed it. */
const KEEP = 16 << 10;

export interface LogFileEvents {
  /** A write failed; reported once until a write succeeds again. */
  onError(error: Error): void;
  /** `bytes` in `entries` whole lines could not be written and are lost. */
  onDropped(bytes: number, entries: number): void;
  /** It has written everything after it was {@link LogFile.busy}. */
  onIdle(): void;
}

/**
 * One container's log. Buffered lines are written together, in one write of whole lines, so that a reader never finds
 * half a line, and one write at a time, which keeps their order.
 *
 * Usually they are written at once, on this thread: the page cache takes them in microseconds. When the kernel makes
 * the writer wait (dirty pages over the limit, a slow disk), the file is written in libuv's pool for a while: then only
 * that container's log waits. A log on a mount that may hang is written by a process (log-target.ts).
 */
export class LogFile implements LineSink {
  readonly path: string;
  readonly #events: LogFileEvents;
  #target: LogTarget;
  /** The buffer that is being filled. */
  #back: Buffer = Buffer.alloc(0);
  #filled = 0;
  /** The buffer that is being written, or the next one to fill. */
  #front: Buffer = Buffer.alloc(0);
  #writing: Promise<void> | undefined;
  #failed = false;
  #slowUntil = 0;
  #size: number | undefined;

  private constructor(path: string, target: LogTarget, events: LogFileEvents) {
    this.path = path;
    this.#target = target;
    this.#size = target.size;
    this.#events = events;
  }

  /** See {@link openLogTarget}. */
  static async open(path: string, events: LogFileEvents): Promise<LogFile> {
    return new LogFile(path, await openLogTarget(path), events);
  }

  reserve(size: number): { buffer: Buffer; at: number } {
    const needed = this.#filled + size;
    if (needed > this.#back.length) {
      const grown = Buffer.allocUnsafeSlow(Math.max(4096, needed + (needed >> 1)));
      this.#back.copy(grown, 0, 0, this.#filled);
      this.#back = grown;
    }
    return { buffer: this.#back, at: this.#filled };
  }

  commit(size: number): void {
    this.#filled += size;
  }

  /**
   * A write is under way elsewhere: add no more until `onIdle`. Then the container waits, and not this thread's memory
   * grows.
   */
  get busy(): boolean {
    return this.#writing !== undefined;
  }

  /** The file's size in bytes; undefined where it is not known. */
  get size(): number | undefined {
    return this.#size;
  }

  /** The first bytes of those that are buffered are in the file already. */
  skip(bytes: number): void {
    const skipped = Math.min(bytes, this.#filled);
    this.#back.copyWithin(0, skipped, this.#filled);
    this.#filled -= skipped;
  }

  /** Writes the buffered lines, or starts writing them without this thread. */
  flush(): void {
    if (this.#filled === 0 || this.#writing) return;
    const began = performance.now();
    if (began < this.#slowUntil || !this.#target.writeNow) {
      this.#writing = this.#writeElsewhere();
      return;
    }
    this.#writeNow();
    const now = performance.now();
    if (now - began > SLOW_MS) this.#slowUntil = now + SLOW_FOR_MS;
  }

  /**
   * Resolves with true when everything buffered so far is in the file (or was dropped), with false after 5 s with a
   * file that takes no more.
   */
  async settled(): Promise<boolean> {
    const until = performance.now() + SETTLE_MS;
    const left = () => Math.max(1, until - performance.now());
    this.flush();
    while (this.#writing && performance.now() < until) await withTimeLimit(this.#writing, left(), () => {});
    if (this.#writing) return false;
    await this.#target.sync(left());
    return true;
  }

  /** Continues in a new file of the same path, for log rotation. What is buffered already goes to the old file. */
  async reopen(): Promise<void> {
    const next = await openLogTarget(this.path);
    // After `settled` resolves nothing can be added before the target is replaced.
    await this.settled();
    const old = this.#target;
    this.#target = next;
    this.#size = next.size;
    await old.close();
  }

  /** Closes the file and resolves with what {@link settled} says. */
  async close(): Promise<boolean> {
    const settled = await this.settled();
    await this.#target.close();
    return settled;
  }

  #writeNow(): void {
    const lines = this.#back.subarray(0, this.#filled);
    this.#filled = 0;
    let written = 0;
    try {
      while (written < lines.length) written += this.#target.writeNow?.(lines, written) ?? lines.length;
      this.#wrote(written);
    } catch (error) {
      this.#dropFailedWrite(lines, written, error as Error);
    }
    this.#back = reusable(this.#back);
  }

  async #writeElsewhere(): Promise<void> {
    try {
      while (this.#filled > 0) {
        const buffer = this.#back;
        const lines = buffer.subarray(0, this.#filled);
        this.#back = this.#front;
        this.#filled = 0;
        let written = 0;
        try {
          while (written < lines.length) written += await this.#target.write(lines, written);
          this.#wrote(written);
        } catch (error) {
          this.#dropFailedWrite(lines, written, error as Error);
        }
        this.#front = reusable(buffer);
      }
    } finally {
      this.#writing = undefined;
    }
    this.#events.onIdle();
  }

  #wrote(bytes: number): void {
    this.#failed = false;
    if (this.#size !== undefined) this.#size += bytes;
  }

  /**
   * A write failed midway: whole lines that were written stay, a partial line is truncated from the file, the rest is
   * counted as lost.
   */
  #dropFailedWrite(lines: Buffer, written: number, error: Error): void {
    const kept = written === 0 ? 0 : lines.lastIndexOf(10, written - 1) + 1;
    if (this.#size !== undefined) this.#size += kept;
    if (kept < written) {
      try {
        this.#target.takeBack(written - kept);
      } catch (cause) {
        error.cause ??= cause;
      }
    }
    let entries = 0;
    for (let at = lines.indexOf(10, kept); at !== -1; at = lines.indexOf(10, at + 1)) entries++;
    this.#events.onDropped(lines.length - kept, entries);
    if (!this.#failed) this.#events.onError(error);
    this.#failed = true;
  }
}

/** The buffer for the next use; one that a burst has made larger than {@link KEEP} is freed. */
const reusable = (buffer: Buffer): Buffer => (buffer.length <= KEEP ? buffer : Buffer.alloc(0));
