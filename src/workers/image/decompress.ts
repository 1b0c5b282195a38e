import { constants, createGunzip, createZstdDecompress } from 'node:zlib';
import { invalid } from './invalid.ts';
import { ZstdFrames } from './zstd-frames.ts';

/** Bytes of a decoded piece at most: small enough to stay in the CPU's cache while it is hashed and written. */
const PIECE = 128 << 10;
const MAGIC_LENGTH = 4;

/** Gets decoded bytes, in order. A piece is valid only during the call. */
export type Sink = (piece: Buffer) => void;

/**
 * Passes the bytes of a blob to `sink`, decompressed where they are compressed: the first ones decide, and not the
 * media type, which is wrong for many layers. Reads the source to its end. Throws IMAGE_INVALID for a stream that is
 * broken or ends early, and what the source and the sink throw.
 */
export async function decompress(source: AsyncIterable<Buffer>, sink: Sink): Promise<void> {
  let head: Buffer | undefined = Buffer.alloc(0);
  let write: Sink = sink;
  let end = () => {};
  using decoders = new DisposableStack();
  const begin = (first: Buffer) => {
    head = undefined;
    const found = decoderFor(first, sink);
    if (found) {
      decoders.use(found);
      write = (piece) => found.write(piece);
      end = () => found.end();
    }
    if (first.length > 0) write(first);
  };
  for await (const piece of source) {
    if (head === undefined) write(piece);
    else {
      head = head.length === 0 ? piece : Buffer.concat([head, piece]);
      if (head.length >= MAGIC_LENGTH) begin(head);
    }
  }
  if (head !== undefined) begin(head);
  end();
}

interface Decoder extends Disposable {
  write(piece: Buffer): void;
  end(): void;
}

/** Undefined for a plain archive. */
function decoderFor(head: Buffer, sink: Sink): Decoder | undefined {
  if (head[0] === 0x1f && head[1] === 0x8b) return new Gzip(sink);
  const magic = head.length < MAGIC_LENGTH ? 0 : head.readUInt32LE(0);
  return magic === 0xfd2fb528 || magic >>> 4 === 0x184d2a5 ? new Zstd(sink) : undefined;
}

class Gzip implements Decoder {
  readonly #engine: Engine;

  constructor(sink: Sink) {
    this.#engine = new Engine(createGunzip(), 'gzip', sink);
  }

  write(piece: Buffer): void {
    this.#engine.run(piece, constants.Z_NO_FLUSH);
  }

  end(): void {
    this.#engine.run(Buffer.alloc(0), constants.Z_FINISH); // throws in the middle of a stream
  }

  [Symbol.dispose](): void {
    this.#engine[Symbol.dispose]();
  }
}

class Zstd implements Decoder {
  readonly #frames = new ZstdFrames();
  readonly #engine: Engine;

  constructor(sink: Sink) {
    this.#engine = new Engine(createZstdDecompress(), 'zstd', sink);
  }

  write(piece: Buffer): void {
    for (const part of this.#frames.split(piece)) this.#engine.run(part, constants.ZSTD_e_continue);
  }

  end(): void {
    this.#frames.end();
  }

  [Symbol.dispose](): void {
    this.#engine[Symbol.dispose]();
  }
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
class Engine implements Disposable {
  readonly #zlib: Zlib;
  readonly #sink: Sink;
  readonly #output = Buffer.allocUnsafeSlow(PIECE);
  #error: Error | undefined;
  /** What follows the end of the stream is passed over, as gzip does it. */
  #ended = false;

  constructor(stream: object, format: string, sink: Sink) {
    this.#zlib = stream as Zlib;
    this.#sink = sink;
    this.#zlib._handle.onerror = (message, _, code) => {
      this.#error = invalid(
        `the ${format} stream is broken or ends early: ${message}`,
        Object.assign(new Error(message), { code }),
      );
    };
  }

  run(input: Buffer, flush: number): void {
    const { _handle: handle, _writeState: state } = this.#zlib;
    const output = this.#output;
    let at = 0;
    while (!this.#ended) {
      handle.writeSync(flush, input, at, input.length - at, output, 0, PIECE);
      if (this.#error) throw this.#error;
      const [room = 0, left = 0] = state;
      if (room < PIECE) this.#sink(output.subarray(0, PIECE - room));
      at = input.length - left;
      if (room === 0) continue; // there may be more to come of this input
      if (left > 0) this.#ended = true;
      return;
    }
  }

  [Symbol.dispose](): void {
    this.#zlib.close();
  }
}
