/**
 * The FIFOs between a shim and this thread, as event sources on epoll with non-blocking descriptors, so that no thread
 * of libuv's pool waits for them.
 */
import { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { bytesReady, openFifoReader, openFifoWriter } from '../../sys/fifo.ts';
import { withTimeLimit } from '../../time-limit.ts';
import { CHUNK } from './buffer-pool.ts';

/**
 * For all readers of the thread that have no buffer of their own: each read is consumed before the next one happens.
 */
const SHARED = Buffer.allocUnsafeSlow(CHUNK);

/**
 * Reads a FIFO to its end. `onData` gets bytes that are overwritten after it returns; it returns whether to read on.
 */
export class FifoReader implements Disposable {
  readonly #fd: number;
  readonly #socket: Socket;
  readonly ended: Promise<void>;
  #paused = false;
  #isEnded = false;
  /** performance.now() at the last data. */
  #lastData = performance.now();

  /** `buffer` gets the bytes of each read. */
  constructor(path: string, onData: (bytes: Buffer) => boolean, buffer: Buffer = SHARED) {
    const fd = openFifoReader(path);
    this.#fd = fd.number;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.ended = promise;
    this.#socket = new Socket({
      fd: fd.release(),
      readable: true,
      writable: false,
      onread: {
        buffer,
        callback: (count) => {
          this.#lastData = performance.now();
          // One callback is one read of at most 64 KiB; libuv serves other descriptors after 32 of them.
          const more = onData(buffer.subarray(0, count));
          this.#paused = !more;
          return more;
        },
      },
    });
    const end = () => {
      this.#isEnded = true;
      resolve();
    };
    // An error of the descriptor is the end of its data.
    this.#socket.on('error', end);
    this.#socket.on('end', end);
    this.#socket.on('close', end);
    this.#socket.resume();
  }

  get isEnded(): boolean {
    return this.#isEnded;
  }

  /** The open descriptor; undefined once the FIFO was read to its end. */
  get descriptor(): number | undefined {
    return this.#isEnded || this.#socket.destroyed ? undefined : this.#fd;
  }

  get paused(): boolean {
    return this.#paused;
  }

  /** The FIFO is empty, and no data came for `quietMs`. */
  isQuiet(quietMs: number): boolean {
    if (this.#isEnded) return true;
    if (this.#paused || performance.now() - this.#lastData < quietMs) return false;
    return bytesReady(this.#fd) === 0;
  }

  pause(): void {
    if (this.#paused) return;
    this.#paused = true;
    this.#socket.pause();
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#socket.resume();
  }

  [Symbol.dispose](): void {
    this.#isEnded = true;
    this.#socket.destroy();
  }
}

/** The write end of a FIFO that a process reads as its stdin. */
export class FifoWriter implements Disposable {
  readonly #fd: number;
  /** To write to. Do not call its `end()`, use {@link close}. */
  readonly stream: Socket;

  constructor(path: string) {
    const fd = openFifoWriter(path);
    this.#fd = fd.number;
    this.stream = new Socket({ fd: fd.release(), readable: false, writable: true });
    this.stream.on('error', () => this.stream.destroy());
  }

  /**
   * Waits until the reader has read everything, then closes. Closing earlier may lose data: when no other process has
   * the FIFO open, because the shim has not opened it yet, the kernel discards its contents. Resolves with false when
   * the stream was destroyed first.
   */
  async close(): Promise<boolean> {
    // `end()` would close the descriptor by itself.
    await new Promise<void>((resolve) => {
      this.stream.on('close', resolve);
      if (this.stream.destroyed) resolve();
      else this.stream.write('', () => resolve());
    });
    for (let wait = 1; !this.stream.destroyed; wait = Math.min(wait * 2, 50)) {
      if (bytesReady(this.#fd) === 0) {
        this.stream.destroy();
        return true;
      }
      await sleep(wait);
    }
    return false;
  }

  [Symbol.dispose](): void {
    this.stream.destroy();
  }
}

export interface Drained {
  /** True when all writers have closed. False when something still has the FIFO open (a background child). */
  complete: boolean;
}

/**
 * Waits until everything that was written has been read: until EOF of all streams, or, when something still has one
 * open, until no byte came for `quietMs`, or until `maxMs` have passed.
 */
export async function drainReaders(readers: FifoReader[], quietMs: number, maxMs: number): Promise<Drained> {
  const began = performance.now();
  const ended = Promise.all(readers.map((reader) => reader.ended));
  const since = Math.max(quietMs, 0);
  for (let wait = 5; ; wait = Math.min(wait * 2, 50)) {
    if (readers.every((reader) => reader.isEnded)) return { complete: true };
    const waited = performance.now() - began;
    if (waited >= maxMs) return { complete: false };
    if (waited >= since && readers.every((reader) => reader.isQuiet(since))) return { complete: false };
    await withTimeLimit(ended, Math.min(wait, maxMs - waited), () => undefined);
  }
}
