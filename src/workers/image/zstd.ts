/**
 * zstd layers, frame by frame (RFC 8878, 3.1). Node's decoder drops every frame after the first that arrives in the same write,
 * without an error (nodejs/node issue 64741), and layers of zstd:chunked or pzstd have thousands. So the frames are found here, from
 * the block headers, and each gets a decoder of its own.
 */
import { createZstdDecompress, zstdDecompressSync } from 'node:zlib';
import type { ByteReader } from './byte-reader.ts';
import { CHUNK, through } from './through.ts';

const SKIPPABLE = 0x184d2a50;
const FRAME = 0xfd2fb528;
/** A frame up to so much content is decoded at once, without the cost of a stream. */
const SMALL = 1 << 20;

export class ZstdError extends Error {
  override readonly name = 'ZstdError';
}

export async function* zstdFrames(reader: ByteReader): AsyncGenerator<Buffer> {
  for (;;) {
    const head = await reader.peek(4);
    if (head.length === 0) return;
    if (head.length < 4) throw new ZstdError('the zstd data ends in the middle of a frame');
    const magic = head.readUInt32LE(0);
    if ((magic & 0xfffffff0) >>> 0 === SKIPPABLE) {
      const header = await reader.take(8);
      if (!header || !(await reader.skip(header.readUInt32LE(4)))) {
        throw new ZstdError('the zstd data ends in the middle of a frame');
      }
    } else if (magic === FRAME) yield* frame(reader);
    else throw new ZstdError('the zstd data goes on with something that is no frame');
  }
}

async function* frame(reader: ByteReader): AsyncGenerator<Buffer> {
  const header = await takeHeader(reader);
  const pieces = blocks(reader, header);
  if (header.contentSize === undefined || header.contentSize > SMALL) {
    yield* through(pieces, createZstdDecompress({ chunkSize: CHUNK }));
    return;
  }
  const whole: Buffer[] = [];
  for await (const piece of pieces) whole.push(piece);
  // A frame that lies about its size must not fill the memory.
  const content = zstdDecompressSync(Buffer.concat(whole), { maxOutputLength: SMALL + 1 });
  if (content.length > 0) yield content;
}

interface Header {
  bytes: Buffer;
  checksum: boolean;
  contentSize: number | undefined;
}

/** Magic number and frame header (RFC 8878, 3.1.1.1). */
async function takeHeader(reader: ByteReader): Promise<Header> {
  const descriptor = (await reader.peek(5))[4];
  if (descriptor === undefined) throw new ZstdError('the zstd data ends in the middle of a frame');
  const single = (descriptor & 0x20) !== 0;
  const windowSize = single ? 0 : 1;
  const dictionarySize = [0, 1, 2, 4][descriptor & 3] ?? 0;
  const sizeFlag = descriptor >> 6;
  const contentSizeSize = sizeFlag === 0 ? (single ? 1 : 0) : 1 << sizeFlag;
  const bytes = await reader.take(5 + windowSize + dictionarySize + contentSizeSize);
  if (!bytes) throw new ZstdError('the zstd data ends in the middle of a frame');
  const at = 5 + windowSize + dictionarySize;
  let contentSize: number | undefined;
  if (contentSizeSize === 8) contentSize = Number(bytes.readBigUInt64LE(at));
  else if (contentSizeSize > 0) {
    contentSize = bytes.readUIntLE(at, contentSizeSize) + (contentSizeSize === 2 ? 256 : 0);
  }
  return { bytes, checksum: (descriptor & 4) !== 0, contentSize };
}

/** The bytes of one frame, header included (RFC 8878, 3.1.1.2). */
async function* blocks(reader: ByteReader, header: Header): AsyncGenerator<Buffer> {
  yield header.bytes;
  for (let last = false; !last; ) {
    const head = await reader.peek(3);
    if (head.length < 3) throw new ZstdError('the zstd data ends in the middle of a frame');
    const word = head.readUIntLE(0, 3);
    last = (word & 1) !== 0;
    const type = (word >> 1) & 3;
    if (type === 3) throw new ZstdError('a zstd block is of the reserved type');
    const size = type === 1 ? 1 : word >> 3; // a repeated byte is stored once
    const tail = last && header.checksum ? 4 : 0;
    const block = await reader.take(3 + size + tail);
    if (!block) throw new ZstdError('the zstd data ends in the middle of a frame');
    yield block;
  }
}
