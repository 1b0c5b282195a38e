import { invalid } from './invalid.ts';

const MAGIC = 0xfd2fb528;
const SKIPPABLE = 0x184d2a50; // ..5f
/** Magic, descriptor, window, dictionary id, content size: the length of the longest frame header. */
const MAX_HEADER = 18;

/**
 * Cuts a zstd stream into pieces that end at the end of a frame at the latest, and leaves out skippable frames. Node's
 * decoder stops at the end of the first frame of a write and drops the rest of that write without an error (nodejs/node
 * 64741); layers of pzstd and zstd:chunked have many frames. Format: RFC 8878 section 3.1.
 */
export class ZstdFrames {
  /** What comes next; the bytes of `passing` and `skipping` are not parsed. */
  #state: 'frame' | 'block' | 'passing' | 'skipping' = 'frame';
  #left = 0;
  /** What follows the bytes that are passing. */
  #then: 'frame' | 'block' | 'checksum' = 'frame';
  #checksum = false;
  /** A header whose bytes are not complete yet. */
  #held: Buffer = Buffer.alloc(0);

  /** The pieces of this chunk for the decoder, each for a write of its own. Throws IMAGE_INVALID. */
  *split(chunk: Buffer): Generator<Buffer> {
    const input = this.#held.length > 0 ? Buffer.concat([this.#held, chunk]) : chunk;
    this.#held = Buffer.alloc(0);
    let start = 0; // of the piece that is not handed on yet
    let at = 0;
    // An empty block or skippable frame ends although no byte of it follows.
    while (at < input.length || (this.#left === 0 && (this.#state === 'passing' || this.#state === 'skipping'))) {
      if (this.#state === 'passing' || this.#state === 'skipping') {
        const take = Math.min(this.#left, input.length - at);
        at += take;
        this.#left -= take;
        if (this.#state === 'skipping') start = at;
        if (this.#left > 0) break;
        if (this.#state === 'skipping' || this.#then === 'frame') {
          if (at > start) yield input.subarray(start, at);
          start = at;
          this.#state = 'frame';
        } else if (this.#then === 'checksum') this.#pass(4, 'frame');
        else this.#state = 'block';
        continue;
      }
      const length = this.#header(input, at);
      if (length === 0) break; // the header is incomplete
      at += length;
      if (this.#skips()) start = at;
    }
    // An incomplete header is held until the rest comes.
    if (at > start) yield input.subarray(start, at);
    if (at < input.length) this.#held = Buffer.from(input.subarray(at));
  }

  /** Ends the stream. Throws IMAGE_INVALID when it stops inside a frame. */
  end(): void {
    if (this.#state !== 'frame' || this.#held.length > 0) throw invalid('the zstd stream ends inside a frame');
  }

  #pass(size: number, then: 'frame' | 'block' | 'checksum'): void {
    this.#state = 'passing';
    this.#left = size;
    this.#then = then;
  }

  #skips(): boolean {
    return this.#state === 'skipping';
  }

  #header(input: Buffer, at: number): number {
    return this.#state === 'frame' ? this.#frame(input, at) : this.#block(input, at);
  }

  #afterBlocks(): 'frame' | 'checksum' {
    return this.#checksum ? 'checksum' : 'frame';
  }

  /** Reads a frame's header; returns its length, or 0 when more bytes are needed. */
  #frame(input: Buffer, at: number): number {
    if (input.length - at < 5) return 0;
    const magic = input.readUInt32LE(at);
    if (magic >>> 4 === SKIPPABLE >>> 4) {
      if (input.length - at < 8) return 0;
      this.#left = input.readUInt32LE(at + 4);
      this.#state = 'skipping';
      return 8;
    }
    if (magic !== MAGIC) throw invalid(`a zstd frame begins with 0x${magic.toString(16)}`);
    const descriptor = input[at + 4] ?? 0;
    const single = (descriptor & 0x20) !== 0;
    const sizeFlag = descriptor >> 6;
    const sizeBytes = sizeFlag === 0 ? (single ? 1 : 0) : 1 << sizeFlag;
    const dictionaryBytes = [0, 1, 2, 4][descriptor & 3] ?? 0;
    const length = 5 + (single ? 0 : 1) + dictionaryBytes + sizeBytes;
    if (length > MAX_HEADER) throw new Error(`a zstd header of ${length} bytes`);
    if (input.length - at < length) return 0;
    this.#checksum = (descriptor & 4) !== 0;
    this.#state = 'block';
    return length;
  }

  /** Reads a block's header; returns its length, 3, or 0 when more bytes are needed. */
  #block(input: Buffer, at: number): number {
    if (input.length - at < 3) return 0;
    const header = input.readUIntLE(at, 3);
    const last = (header & 1) !== 0;
    const type = (header >> 1) & 3;
    if (type === 3) throw invalid('a zstd block has the reserved type');
    const size = type === 1 ? 1 : header >> 3; // a run is stored as one byte
    this.#pass(size, last ? this.#afterBlocks() : 'block');
    return 3;
  }
}
