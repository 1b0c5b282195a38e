import { invalid } from './invalid.ts';

/** A text field up to its first NUL, one byte per character. */
export function tarText(block: Buffer, at: number, length: number): string {
  if (block[at] === 0) return '';
  const end = block.indexOf(0, at);
  return block.toString('latin1', at, end < 0 || end > at + length ? at + length : end);
}

/**
 * A number field: octal digits, or base-256 in two's complement when the top bit of the first byte is set (GNU). Throws
 * IMAGE_INVALID.
 */
export function tarNumber(block: Buffer, at: number, length: number, what: string): number {
  const first = block[at] ?? 0;
  if (first & 0x80) {
    const negative = (first & 0x40) !== 0;
    let value = negative ? -1n : 0n;
    for (let i = 0; i < length; i++) {
      const byte = i === 0 ? (negative ? first : first & 0x7f) : (block[at + i] ?? 0);
      value = (value << 8n) | BigInt(byte);
    }
    if (value > BigInt(Number.MAX_SAFE_INTEGER) || value < BigInt(Number.MIN_SAFE_INTEGER)) {
      throw invalid(`a tar header gives the ${what} ${value}`);
    }
    return Number(value);
  }
  let value = 0;
  let i = at;
  const end = at + length;
  while (i < end && block[i] === 0x20) i++;
  for (; i < end; i++) {
    const byte = block[i] ?? 0;
    if (byte === 0 || byte === 0x20) break;
    if (byte < 0x30 || byte > 0x37) {
      throw invalid(`a tar header gives the ${what} ${JSON.stringify(tarText(block, at, length))}`);
    }
    value = value * 8 + (byte - 0x30);
  }
  return value;
}
