/** What decoders of compressed layers have in common (decompress.ts). */
import { invalid } from './invalid.ts';

/** Bytes of a decoded piece at most: small enough to stay in the CPU's cache while it is hashed and written. */
const PIECE = 128 << 10;

/** Gets decoded bytes, in order. A piece is valid only during the call. */
export type Sink = (piece: Buffer) => void;

/** Decodes a blob that comes in pieces, and gives what comes out to its sink. */
export interface Decoder extends Disposable {
  /** The next piece. Throws IMAGE_INVALID for a stream that is broken, and what the sink throws. */
  write(piece: Buffer): void;
  /** There is no further piece. Throws IMAGE_INVALID when the stream ends early. */
  end(): void;
}

/** What stands behind a stream of node:zlib, and what its own synchronous functions call. */
interface Handle {
  /** Puts what is left of output and input into {@link Zlib._writeState}; reports errors to {@link onerror}. */
  writeSync(
    flush: number,
    input: Buffer,
    inputAt: number,
    inputLength: number,
    output: Buffer,
    outputAt: number,
    outputLength: number,
  ): void;
  onerror: (message: string, errno: number, code: string) => void;
  /** Begins a new stream. */
  reset(): void;
}

interface Zlib {
  _handle: Handle;
  _writeState: Uint32Array;
  close(): void;
}

/**
 * Runs a decoder of node:zlib on the calling thread and into one buffer. As a stream it takes a turn of libuv's pool
 * and of the event loop, and a new buffer, for each piece: measured for 256 MiB of stored bytes, that was as much CPU
 * as the decoding. Node has no public function for a synchronous stream; the members used here are those that npm's own
 * tar reader stands on, and test/unit/tar-decompress.test.ts fails should they change.
 */
export class Engine implements Disposable {
  readonly #zlib: Zlib;
  readonly #format: string;
  readonly #sink: Sink;
  readonly #output = Buffer.allocUnsafeSlow(PIECE);
  #error: Error | undefined;

  constructor(stream: object, format: string, sink: Sink) {
    this.#zlib = stream as Zlib;
    this.#format = format;
    this.#sink = sink;
    this.#zlib._handle.onerror = (message, _, code) => {
      this.#error = this.broken(message, code);
    };
  }

  /** IMAGE_INVALID with these words, zlib's or the caller's, for the caller to throw. */
  broken(message: string, code?: string): Error {
    const cause = Object.assign(new Error(message), { code });
    return invalid(`the ${this.#format} stream is broken or ends early: ${message}`, cause);
  }

  /**
   * Decodes the input from `from` on; returns how many bytes at its end follow the end of the stream. Throws
   * IMAGE_INVALID, and what the sink throws.
   */
  run(input: Buffer, flush: number, from = 0): number {
    const { _handle: handle, _writeState: state } = this.#zlib;
    const output = this.#output;
    for (let at = from; ; ) {
      handle.writeSync(flush, input, at, input.length - at, output, 0, PIECE);
      if (this.#error) throw this.#error;
      const [room = 0, left = 0] = state;
      if (room < PIECE) this.#sink(output.subarray(0, PIECE - room));
      if (room > 0) return left;
      at = input.length - left; // there may be more to come of this input
    }
  }

  /** What comes next is another stream. */
  reset(): void {
    this.#zlib._handle.reset();
  }

  [Symbol.dispose](): void {
    this.#zlib.close();
  }
}
