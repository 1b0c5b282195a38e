/**
 * The content of a layer, whatever it is packed with. The media type is not asked: registries and builders get it wrong, the
 * first bytes do not.
 */
import { createGunzip } from 'node:zlib';
import { ByteReader } from './byte-reader.ts';
import { CHUNK, through } from './through.ts';
import { zstdFrames } from './zstd.ts';

/** Decompresses gzip and zstd (any number of members or frames), and passes everything else on as it is. */
export async function* decompress(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const reader = new ByteReader(source);
  const head = await reader.peek(4);
  if (head.length >= 3 && head[0] === 0x1f && head[1] === 0x8b && head[2] === 8) {
    yield* through(reader.rest(), createGunzip({ chunkSize: CHUNK }));
  } else if (isZstd(head)) yield* zstdFrames(reader);
  else yield* reader.rest();
}

/** 0xFD2FB528, or one of the sixteen that begin a frame to be skipped (RFC 8878, 3.1). */
function isZstd(head: Buffer): boolean {
  if (head.length < 4) return false;
  const magic = head.readUInt32LE(0);
  return magic === 0xfd2fb528 || (magic & 0xfffffff0) >>> 0 === 0x184d2a50;
}
