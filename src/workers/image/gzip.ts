import { constants, crc32, createInflateRaw } from 'node:zlib';
import { type Decoder, Engine, type Sink } from './decoder.ts';
import { invalid } from './invalid.ts';

/** Bytes behind a member: the checksum and the length of what was in it. */
const TRAILER = 8;
/** Of the members' flags: which optional parts follow the header's fixed ten bytes. */
const FLAG = { headerChecksum: 2, extra: 4, name: 8, comment: 16, reserved: 0xe0 } as const;
const FIXED = 10;
const DEFLATE = 8;
/** A name or comment may have any length; real ones are paths. */
const MAX_HEADER = 1 << 20;

/** Members one after the other, each with a header, a stream of deflate, and its checksum and length (RFC 1952). */
export class Gzip implements Decoder {
  readonly #engine: Engine;
  /** What comes next. Zeroes behind a member are padding, as for gzip, and so is what follows them. */
  #state: 'header' | 'body' | 'trailer' | 'padding' = 'header';
  /** The beginning of a header or trailer that is not complete yet. */
  #held: Buffer = Buffer.alloc(0);
  #members = 0;
  /** Of the member's decoded bytes; the length is counted in 32 bits. */
  #length = 0;
  #checksum = 0;
  readonly #verified: boolean;

  constructor(sink: Sink, verified: boolean) {
    this.#verified = verified;
    this.#engine = new Engine(createInflateRaw(), 'gzip', (piece) => {
      this.#length = (this.#length + piece.length) >>> 0;
      if (!verified) this.#checksum = crc32(piece, this.#checksum);
      sink(piece);
    });
  }

  write(piece: Buffer): void {
    const input = this.#held.length > 0 ? Buffer.concat([this.#held, piece]) : piece;
    this.#held = Buffer.alloc(0);
    for (let at = 0; at < input.length && this.#state !== 'padding'; ) {
      const next = this.#next(input, at);
      if (next === undefined) {
        this.#held = Buffer.from(input.subarray(at));
        return;
      }
      at = next;
    }
  }

  end(): void {
    const whole = this.#state === 'header' && this.#members > 0 && this.#held.length === 0;
    if (!whole && this.#state !== 'padding') throw this.#engine.broken('unexpected end of file');
  }

  [Symbol.dispose](): void {
    this.#engine[Symbol.dispose]();
  }

  /** Takes what begins at `at`, and returns where it ends; undefined for a header or trailer that is not complete. */
  #next(input: Buffer, at: number): number | undefined {
    switch (this.#state) {
      case 'header':
        return this.#header(input, at);
      case 'body': {
        const left = this.#engine.run(input, constants.Z_NO_FLUSH, at);
        // A stream that ends with this piece is found to have ended when the next one comes.
        if (left > 0) this.#state = 'trailer';
        return input.length - left;
      }
      case 'trailer':
        return this.#trailer(input, at);
      default:
        return input.length;
    }
  }

  #header(input: Buffer, at: number): number | undefined {
    if (this.#members > 0 && input[at] === 0) {
      this.#state = 'padding';
      return input.length;
    }
    const length = headerLength(input, at);
    if (length === undefined) return undefined;
    this.#state = 'body';
    return at + length;
  }

  #trailer(input: Buffer, at: number): number | undefined {
    if (input.length - at < TRAILER) return undefined;
    if (!this.#verified && input.readUInt32LE(at) !== this.#checksum) throw this.#engine.broken('incorrect data check');
    if (input.readUInt32LE(at + 4) !== this.#length) throw this.#engine.broken('incorrect length check');
    this.#engine.reset();
    this.#members++;
    this.#length = 0;
    this.#checksum = 0;
    this.#state = 'header';
    return at + TRAILER;
  }
}

/**
 * The length of a gzip member's header (RFC 1952 section 2.3) that begins at `start`; undefined when it goes on behind
 * the end of `input`. Throws IMAGE_INVALID for something else, and for a header whose own checksum is wrong.
 */
function headerLength(input: Buffer, start: number): number | undefined {
  const length = lengthOf(input, start);
  if ((length ?? input.length - start) > MAX_HEADER) throw broken(`a header of more than ${MAX_HEADER} bytes`);
  return length;
}

function lengthOf(input: Buffer, start: number): number | undefined {
  if ((input[start] ?? 0x1f) !== 0x1f || (input[start + 1] ?? 0x8b) !== 0x8b) throw broken('incorrect header check');
  if (input.length - start < FIXED) return undefined;
  if (input[start + 2] !== DEFLATE) throw broken('unknown compression method');
  const flags = input[start + 3] ?? 0;
  if (flags & FLAG.reserved) throw broken('unknown header flags set');
  let end = start + FIXED;
  if (flags & FLAG.extra) {
    if (input.length < end + 2) return undefined;
    end += 2 + input.readUInt16LE(end);
  }
  for (const text of [FLAG.name, FLAG.comment]) {
    if (!(flags & text)) continue;
    const zero = input.indexOf(0, end);
    if (zero < 0) return undefined;
    end = zero + 1;
  }
  if (flags & FLAG.headerChecksum) {
    if (input.length < end + 2) return undefined;
    if ((crc32(input.subarray(start, end)) & 0xffff) !== input.readUInt16LE(end)) throw broken('header crc mismatch');
    end += 2;
  }
  return end <= input.length ? end - start : undefined;
}

const broken = (what: string) => invalid(`the gzip stream is broken or ends early: ${what}`);
