import { close, fstatSync, ftruncateSync, open, write, writeSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import type { LineSink } from './log-lines.ts';

const closeFile = promisify(close);
const openFile = promisify(open);

/** Bytes that may be buffered for the disk; above it the container's FIFO is not read, and the container waits. */
const HIGH_WATER = 512 << 10;
/** A write that takes longer shows that the kernel makes writers wait (milliseconds). */
const SLOW_MS = 10;
/** After such a write the file is written in libuv's pool for so long (milliseconds). */
const SLOW_FOR_MS = 10_000;
/** A buffer up to this size is kept between writes; a larger one is freed after the burst that needed it. */
const KEEP = 16 << 10;

export interface LogFileEvents {
  /** A write failed; reported once until a write succeeds again. */
  onError(error: Error): void;
  /** `bytes` in `entries` whole lines could not be written and are lost. */
  onDropped(bytes: number, entries: number): void;
  /** There is room again after {@link LogFile.full}. */
  onRoom(): void;
}

/**
 * One container's log. Buffered lines are written together, in one write of whole lines, so that a reader never finds
 * half a line, and one write at a time, which keeps their order.
 *
 * Usually they are written at once, on this thread: the page cache takes them in microseconds, and a daemon that is
 * killed loses nothing that it has read. When the kernel makes the writer wait (dirty pages over the limit, a slow
 * disk), the file is written in libuv's pool for a while: then only that container's log waits.
 */
export class LogFile implements LineSink {
  readonly path: string;
  readonly #events: LogFileEvents;
  #fd: number;
  /** The buffer that is being filled. */
  #back: Buffer = Buffer.alloc(0);
  #filled = 0;
  /** The buffer that is being written, or the next one to fill. */
  #front: Buffer = Buffer.alloc(0);
  #writing: Promise<void> | undefined;
  #failed = false;
  #full = false;
  #slowUntil = 0;

  private constructor(path: string, fd: number, events: LogFileEvents) {
    this.path = path;
    this.#fd = fd;
    this.#events = events;
  }

  /** Opens the file for appending; makes it (0640) and the folders above it (0755). */
  static async open(path: string, events: LogFileEvents): Promise<LogFile> {
    return new LogFile(path, await openLog(path), events);
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
    if (this.#filled > HIGH_WATER) this.#full = true;
  }

  /** More than {@link HIGH_WATER} is buffered: do not add more until `onRoom`. */
  get full(): boolean {
    return this.#full;
  }

  /** Writes the buffered lines, or starts writing them in libuv's pool. */
  flush(): void {
    if (this.#filled === 0 || this.#writing) return;
    const began = performance.now();
    if (began < this.#slowUntil) {
      this.#writing = this.#writeByPool();
      return;
    }
    this.#writeNow();
    const now = performance.now();
    if (now - began > SLOW_MS) this.#slowUntil = now + SLOW_FOR_MS;
  }

  /** Resolves when everything buffered so far is in the file (or was dropped). */
  async settled(): Promise<void> {
    this.flush();
    while (this.#writing) await this.#writing;
  }

  /** Continues in a new file of the same path, for log rotation. What is buffered already goes to the old file. */
  async reopen(): Promise<void> {
    const next = await openLog(this.path);
    // After `settled` resolves nothing can be added before the descriptor is replaced.
    await this.settled();
    const old = this.#fd;
    this.#fd = next;
    await closeFile(old);
  }

  async close(): Promise<void> {
    await this.settled();
    await closeFile(this.#fd);
  }

  #writeNow(): void {
    const lines = this.#back.subarray(0, this.#filled);
    this.#filled = 0;
    this.#full = false;
    let written = 0;
    try {
      while (written < lines.length) written += writeSync(this.#fd, lines, written);
      this.#failed = false;
    } catch (error) {
      this.#dropFailedWrite(lines, written, error as Error);
    }
    this.#back = reusable(this.#back);
  }

  async #writeByPool(): Promise<void> {
    try {
      while (this.#filled > 0) {
        const buffer = this.#back;
        const lines = buffer.subarray(0, this.#filled);
        this.#back = this.#front;
        this.#filled = 0;
        let written = 0;
        try {
          while (written < lines.length) written += await writeSome(this.#fd, lines, written);
          this.#failed = false;
        } catch (error) {
          this.#dropFailedWrite(lines, written, error as Error);
        }
        this.#front = reusable(buffer);
        if (this.#full) {
          this.#full = false;
          this.#events.onRoom();
        }
      }
    } finally {
      this.#writing = undefined;
    }
  }

  /**
   * A write failed midway: whole lines that were written stay, a partial line is truncated from the file, the rest is
   * counted as lost.
   */
  #dropFailedWrite(lines: Buffer, written: number, error: Error): void {
    const kept = written === 0 ? 0 : lines.lastIndexOf(10, written - 1) + 1;
    if (kept < written) {
      try {
        ftruncateSync(this.#fd, fstatSync(this.#fd).size - (written - kept));
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

/**
 * mkdir's `recursive` is not used: Node loops forever, on a pool thread, where a parent exists but mkdir in it fails
 * (/proc).
 */
async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path, 0o755);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST') return;
    if (code !== 'ENOENT' || dirname(path) === path) throw error;
    const parent = dirname(path);
    await makeFolder(parent);
    await mkdir(path, 0o755).catch((again: NodeJS.ErrnoException) => {
      if (again.code !== 'EEXIST') throw again;
    });
  }
}

async function openLog(path: string): Promise<number> {
  await makeFolder(dirname(path));
  return await openFile(path, 'a', 0o640);
}

function writeSome(fd: number, lines: Buffer, at: number): Promise<number> {
  return new Promise((resolve, reject) => {
    write(fd, lines, at, lines.length - at, null, (error, count) => (error ? reject(error) : resolve(count)));
  });
}
