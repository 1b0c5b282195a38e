/** The FIFOs between a shim and this thread, as event sources. Only epoll and non-blocking descriptors: no libuv pool thread waits. */
import { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { bytesReady, openFifoReader, openFifoWriter } from '../../sys/fifo.ts';
import { CHUNK } from './buffer-pool.ts';

/** All readers of the thread share it: what is read is used up before the next read happens. */
const SHARED = Buffer.allocUnsafeSlow(CHUNK);

/** Reads a FIFO to its end. `onData` gets bytes that are overwritten when it returns, and says whether to go on reading. */
export class FifoReader implements Disposable {
  readonly #fd: number;
  readonly #socket: Socket;
  readonly ended: Promise<void>;
  #paused = false;
  #isEnded = false;
  /** performance.now() of the last data. */
  #lastData = performance.now();

  constructor(path: string, onData: (bytes: Buffer) => boolean) {
    const fd = openFifoReader(path);
    this.#fd = fd.number;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.ended = promise;
    this.#socket = new Socket({
      fd: fd.release(),
      readable: true,
      writable: false,
      onread: {
        buffer: SHARED,
        callback: (count) => {
          this.#lastData = performance.now();
          // One callback is one read of at most 64 KiB, and libuv turns to other descriptors after 32 of them.
          const more = onData(SHARED.subarray(0, count));
          this.#paused = !more;
          return more;
        },
      },
    });
    const end = () => {
      this.#isEnded = true;
      resolve();
    };
    // A FIFO that cannot be read any more is at its end.
    this.#socket.on('error', end);
    this.#socket.on('end', end);
    this.#socket.on('close', end);
    this.#socket.resume();
  }

  get isEnded(): boolean {
    return this.#isEnded;
  }

  /** The open descriptor, or none once the FIFO was read to its end. */
  get descriptor(): number | undefined {
    return this.#isEnded || this.#socket.destroyed ? undefined : this.#fd;
  }

  get paused(): boolean {
    return this.#paused;
  }

  /** Nothing waits in the FIFO, and nothing came for `quietMs`. */
  isQuiet(quietMs: number): boolean {
    if (this.#isEnded) return true;
    if (this.#paused || performance.now() - this.#lastData < quietMs) return false;
    return bytesReady(this.#fd) === 0;
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

/** The end of a FIFO that a process reads as its stdin. */
export class FifoWriter implements Disposable {
  readonly #fd: number;
  /** For writing; never `end()` it: {@link close} does. */
  readonly stream: Socket;

  constructor(path: string) {
    const fd = openFifoWriter(path);
    this.#fd = fd.number;
    this.stream = new Socket({ fd: fd.release(), readable: false, writable: true });
    this.stream.on('error', () => this.stream.destroy());
  }

  /**
   * Waits until the other side has taken what was written, and closes. Not before: when we are the last to have the FIFO open, because
   * the shim is not there yet, the kernel forgets what is in it. Resolves with false when it was closed otherwise meanwhile.
   */
  async close(): Promise<boolean> {
    // Not `end()`: a socket that has ended closes its descriptor by itself.
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
  /** All writers have closed: nothing can follow. False when something still holds the FIFO (a child in the background). */
  complete: boolean;
}

/**
 * Waits until everything that was written has been read: the end of all streams, or, where something still holds one open, `quietMs`
 * without a byte, or `maxMs` in all.
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
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, Math.min(wait, maxMs - waited));
    await Promise.race([ended, promise]);
    clearTimeout(timer);
  }
}
