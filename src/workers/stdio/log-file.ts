import { close, fstatSync, ftruncateSync, open, write, writeSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import type { LineSink } from './log-lines.ts';

const closeFile = promisify(close);
const openFile = promisify(open);

/** Bytes that may wait for the disk; above it the container's FIFO is left alone, and the container waits. */
const HIGH_WATER = 512 << 10;
/** A write that held this thread up for so long shows a disk that makes writers wait (ms) … */
const SLOW_MS = 10;
/** … and for so long that file is written by libuv's pool instead (ms). */
const SLOW_FOR_MS = 10_000;
/** A buffer of this size is kept between writes; a bigger one goes with the burst that needed it. */
const KEEP = 16 << 10;

export interface LogFileEvents {
  /** Writing failed; said once, until a write succeeds again. */
  onError(error: Error): void;
  /** `bytes` in `entries` whole lines could not be written and are gone. */
  onDropped(bytes: number, entries: number): void;
  /** There is room again after {@link LogFile.full}. */
  onRoom(): void;
}

/**
 * One container's log. Lines that were filled in go out together, in one write of whole lines, so a reader of the file never meets
 * half a one, and one write at a time, so the order is that of the lines.
 *
 * As a rule they go out at once, on this thread: into the page cache that takes microseconds, and a daemon that is killed takes
 * nothing along that it had read. Where the kernel makes the writer wait (dirty pages over the limit, a slow disk), the file
 * is handed to libuv's pool for a while: then that container's log waits, and nobody else's.
 */
export class LogFile implements LineSink {
  readonly path: string;
  readonly #events: LogFileEvents;
  #fd: number;
  /** Being filled. */
  #back: Buffer = Buffer.alloc(0);
  #filled = 0;
  /** Being written, or empty to be filled next. */
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

  /** Opens for appending; makes the file (0640) and the folders above it (0755). */
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

  /** More waits for the disk than should: stop filling until `onRoom`. */
  get full(): boolean {
    return this.#full;
  }

  /** Writes what was filled in, or has it written. */
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

  /** Resolves when everything filled in so far is in the file (or was dropped). */
  async settled(): Promise<void> {
    this.flush();
    while (this.#writing) await this.#writing;
  }

  /** Goes on in a new file of the same path, for log rotation. What was filled in before belongs to the old file. */
  async reopen(): Promise<void> {
    const next = await openLog(this.path);
    // What was read before the call goes to the old file, and nothing can come between the last write and the change.
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
      this.#lost(lines, written, error as Error);
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
          this.#lost(lines, written, error as Error);
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

  /** A write ended early: whole lines that were written stay, a torn one is taken off the file, the rest is counted as lost. */
  #lost(lines: Buffer, written: number, error: Error): void {
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

/** A buffer that a burst made big goes with it. */
const reusable = (buffer: Buffer): Buffer => (buffer.length <= KEEP ? buffer : Buffer.alloc(0));

/** Not mkdir's own `recursive`: Node's loops for ever, on a pool thread, where a parent exists but takes no folder (/proc). */
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
