import type { Transform } from 'node:stream';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import { invalid } from './invalid.ts';
import { ZstdFrames } from './zstd-frames.ts';

/** Decoded pieces are this long at most: large enough that few turns of the event loop go by, small enough to stay in the cache. */
const PIECE = 128 << 10;
const MAGIC_LENGTH = 4;

/** A blob's bytes, and the decoder they have to go through (none when they are a plain archive). */
export interface Compressed {
  format: 'gzip' | 'zstd' | 'tar';
  pieces: AsyncIterable<Buffer>;
  decoder: Transform | undefined;
}

/** Looks at the first bytes, whatever the media type says: registries are full of layers whose label is wrong. */
export async function detect(source: AsyncIterable<Buffer>): Promise<Compressed> {
  const pieces = source[Symbol.asyncIterator]();
  let head: Buffer = Buffer.alloc(0);
  while (head.length < MAGIC_LENGTH) {
    const { done, value } = await pieces.next();
    if (done) break;
    head = head.length === 0 ? value : Buffer.concat([head, value]);
  }
  const all = behind(head, pieces);
  if (head[0] === 0x1f && head[1] === 0x8b) {
    return { format: 'gzip', pieces: all, decoder: createGunzip({ chunkSize: PIECE }) };
  }
  const magic = head.length < MAGIC_LENGTH ? 0 : head.readUInt32LE(0);
  if (magic === 0xfd2fb528 || magic >>> 4 === 0x184d2a5) {
    return { format: 'zstd', pieces: wholeFrames(all), decoder: createZstdDecompress({ chunkSize: PIECE }) };
  }
  return { format: 'tar', pieces: all, decoder: undefined };
}

/** An error of a decoder, which knows nothing but its number, as one about the image. */
export function decodeError(format: string, error: unknown): unknown {
  const code = (error as NodeJS.ErrnoException).code ?? '';
  if (!/^(Z_|ZSTD_|ERR_ZLIB|ERR_TRAILING_JUNK)/.test(code)) return error;
  return invalid(`the ${format} stream is broken or ends early: ${(error as Error).message}`, error);
}

async function* behind(head: Buffer, rest: AsyncIterator<Buffer>): AsyncGenerator<Buffer> {
  try {
    if (head.length > 0) yield head;
    for (let next = await rest.next(); !next.done; next = await rest.next()) yield next.value;
  } finally {
    await rest.return?.();
  }
}

async function* wholeFrames(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const frames = new ZstdFrames();
  for await (const chunk of source) yield* frames.split(chunk);
  frames.end();
}
