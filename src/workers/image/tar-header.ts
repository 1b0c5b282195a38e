/** One header block of a tar archive: POSIX ustar, GNU, star and the old V7 form (POSIX.1-2017 pax, "ustar Interchange Format"). */

export const BLOCK = 512;

/** The archive breaks the format: the layer is at fault, not the machine. */
export class TarError extends Error {
  override readonly name = 'TarError';
}

/** A point in time as tar can say it. */
export interface Time {
  seconds: number;
  nanoseconds: number;
}

/** A header as it stands; texts are latin1, one character for each byte, so that any name survives. */
export interface RawHeader {
  format: 'v7' | 'ustar' | 'gnu';
  name: string;
  mode: number;
  uid: number;
  gid: number;
  size: number;
  mtime: Time;
  type: string;
  linkName: string;
  devMajor: number;
  devMinor: number;
}

/** Reads a header; undefined for the block of zeros that ends an archive. Throws {@link TarError}. */
export function parseHeader(block: Buffer): RawHeader | undefined {
  if (!checksumFits(block)) {
    if (block.every((byte) => byte === 0)) return undefined;
    throw new TarError('a header has a wrong checksum');
  }
  const magic = block.toString('latin1', 257, 265);
  const format = magic.startsWith('ustar\0') ? 'ustar' : magic === 'ustar  \0' ? 'gnu' : 'v7';
  let name = text(block, 0, 100);
  if (format === 'ustar') {
    // star keeps times in the tail of what POSIX gives to the prefix.
    const star = block.toString('latin1', 508, 512) === 'tar\0';
    const prefix = text(block, 345, star ? 131 : 155);
    if (prefix !== '') name = `${prefix}/${name}`;
  }
  const devices = format !== 'v7';
  return {
    format,
    name,
    mode: number(block, 100, 8, 'mode'),
    uid: number(block, 108, 8, 'uid'),
    gid: number(block, 116, 8, 'gid'),
    size: sizeOf(number(block, 124, 12, 'size')),
    mtime: { seconds: number(block, 136, 12, 'mtime'), nanoseconds: 0 },
    type: String.fromCharCode(block[156] ?? 0),
    linkName: text(block, 157, 100),
    devMajor: devices ? number(block, 329, 8, 'devmajor') : 0,
    devMinor: devices ? number(block, 337, 8, 'devminor') : 0,
  };
}

export function sizeOf(value: number): number {
  if (value < 0 || !Number.isSafeInteger(value)) throw new TarError(`a size of ${value}`);
  return value;
}

/**
 * A number field: octal digits between blanks and NULs, or, with the top bit set, a big-endian two's complement (GNU's base-256,
 * for owners, sizes and times that do not fit).
 */
export function number(block: Buffer, at: number, length: number, what: string): number {
  const first = block[at] ?? 0;
  if ((first & 0x80) !== 0) return base256(block.subarray(at, at + length), what);
  const digits = text(block, at, length).trim();
  if (digits === '') return 0;
  if (!/^[0-7]+$/.test(digits)) throw new TarError(`${what} is no number: ${JSON.stringify(digits)}`);
  return Number.parseInt(digits, 8);
}

function base256(field: Buffer, what: string): number {
  const negative = ((field[0] ?? 0) & 0x40) !== 0;
  let value = negative ? -1n : 0n;
  for (let i = 0; i < field.length; i++) {
    let byte = field[i] ?? 0;
    if (i === 0) byte = negative ? byte | 0x80 : byte & 0x7f; // the top bit is the mark, the next one the sign
    value = (value << 8n) | BigInt(byte);
  }
  const result = Number(value);
  if (!Number.isSafeInteger(result)) throw new TarError(`${what} is too large: ${value}`);
  return result;
}

/** Bytes up to the first NUL. */
export function text(block: Buffer, at: number, length: number): string {
  const end = block.indexOf(0, at);
  return block.toString('latin1', at, end < 0 || end > at + length ? at + length : end);
}

/** The sum of all bytes, the field itself counted as blanks; some old writers summed signed bytes. */
function checksumFits(block: Buffer): boolean {
  const field = text(block, 148, 8).trim();
  if (!/^[0-7]+$/.test(field)) return false;
  const expected = Number.parseInt(field, 8);
  let unsigned = 8 * 32;
  let high = 0;
  for (let i = 0; i < BLOCK; i++) {
    if (i >= 148 && i < 156) continue;
    const byte = block[i] ?? 0;
    unsigned += byte;
    if (byte > 127) high++;
  }
  return expected === unsigned || expected === unsigned - 256 * high;
}
