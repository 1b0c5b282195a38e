/** Zeroes of a file that are left out when it is written: the file has a hole there, which reads alike. */

/** Only whole blocks of this many bytes, counted from the file's start, become holes: few extents, few writes. */
export const HOLE_BLOCK = 32 << 10;
const ZEROES = Buffer.alloc(HOLE_BLOCK);

/** Of at most {@link HOLE_BLOCK} bytes, and at least one. */
export const isZeroes = (bytes: Buffer): boolean => bytes[0] === 0 && bytes.equals(ZEROES.subarray(0, bytes.length));

/**
 * Splits the pieces of one file into what has to be written and what may stay a hole. What comes out depends on the
 * file alone, not on how its bytes were cut into pieces: that follows the network.
 */
export class Holes {
  readonly #write: (data: Buffer, offset: number) => void;
  /** The bytes from `from` up to `to`, in one block, are zeroes that were left out so far. */
  #skipped = { from: 0, to: 0 };

  /** `write` gets what has to be written: bytes and their offset in the file, in order. */
  constructor(write: (data: Buffer, offset: number) => void) {
    this.#write = write;
  }

  /** The next bytes of the file; `offset` may be behind the end of those before. */
  add(piece: Buffer, offset: number): void {
    let unwritten = 0;
    for (let at = 0; at < piece.length; ) {
      const position = offset + at;
      const inBlock = position % HOLE_BLOCK;
      const end = Math.min(piece.length, at + HOLE_BLOCK - inBlock);
      const goesOn = inBlock > 0 && this.#skipped.to === position && this.#skipped.from < position;
      const zero = piece[at] === 0 && isZeroes(piece.subarray(at, end));
      if (zero && (inBlock === 0 || goesOn)) {
        if (unwritten < at) this.#write(piece.subarray(unwritten, at), offset + unwritten);
        unwritten = end;
        this.#skipped = { from: goesOn ? this.#skipped.from : position, to: offset + end };
      } else if (goesOn) {
        const { from, to } = this.#skipped;
        this.#write(ZEROES.subarray(0, to - from), from);
      }
      at = end;
    }
    if (unwritten < piece.length) this.#write(unwritten === 0 ? piece : piece.subarray(unwritten), offset + unwritten);
  }
}
