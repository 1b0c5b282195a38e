import type { Transform } from 'node:stream';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import { invalid } from './invalid.ts';
import { ZstdFrames } from './zstd-frames.ts';

/**
 * Bytes of a decoded piece at most: large enough for few turns of the event loop, small enough to stay in the CPU's
 * cache.
 */
const PIECE = 128 << 10;
const MAGIC_LENGTH = 4;

/** A blob's bytes, and the decoder that they have to pass (none for a plain archive). */
export interface Compressed {
  format: 'gzip' | 'zstd' | 'tar';
  pieces: AsyncIterable<Buffer>;
  decoder: Transform | undefined;
}

/** Recognises the format by the first bytes and not by the media type, which is wrong for many layers. */
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

/** Turns an error of a decoder into IMAGE_INVALID; returns others as they are. */
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
