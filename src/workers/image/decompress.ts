import { constants, createZstdDecompress } from 'node:zlib';
import { type Decoder, Engine, type Sink } from './decoder.ts';
import { Gzip } from './gzip.ts';
import { ZstdFrames } from './zstd-frames.ts';

const MAGIC_LENGTH = 4;

export interface Decompress {
  /**
   * The caller compares a digest of what comes out. Then gzip's own checksum is not looked at, which takes longer than
   * the decoding where bytes are stored as they are.
   */
  verified?: boolean;
}

/**
 * Passes the bytes of a blob to `sink`, decompressed where they are compressed: the first ones decide, and not the
 * media type, which is wrong for many layers. Reads the source to its end. Throws IMAGE_INVALID for a stream that is
 * broken or ends early, and what the source and the sink throw.
 */
export async function decompress(
  source: AsyncIterable<Buffer>,
  sink: Sink,
  { verified = false }: Decompress = {},
): Promise<void> {
  let head: Buffer | undefined = Buffer.alloc(0);
  let write: Sink = sink;
  let end = () => {};
  using decoders = new DisposableStack();
  const begin = (first: Buffer) => {
    head = undefined;
    const found = decoderFor(first, sink, verified);
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

/** Undefined for a plain archive. */
function decoderFor(head: Buffer, sink: Sink, verified: boolean): Decoder | undefined {
  if (head[0] === 0x1f && head[1] === 0x8b) return new Gzip(sink, verified);
  const magic = head.length < MAGIC_LENGTH ? 0 : head.readUInt32LE(0);
  return magic === 0xfd2fb528 || magic >>> 4 === 0x184d2a5 ? new Zstd(sink) : undefined;
}

class Zstd implements Decoder {
  readonly #frames = new ZstdFrames();
  readonly #engine: Engine;

  constructor(sink: Sink) {
    this.#engine = new Engine(createZstdDecompress(), 'zstd', sink);
  }

  write(piece: Buffer): void {
    for (const part of this.#frames.split(piece))
      if (this.#engine.run(part, constants.ZSTD_e_continue) > 0)
        throw this.#engine.broken('bytes follow the end of a frame');
  }

  end(): void {
    this.#frames.end();
  }

  [Symbol.dispose](): void {
    this.#engine[Symbol.dispose]();
  }
}
