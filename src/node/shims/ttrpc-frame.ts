/**
 * ttrpc on the wire: a header of ten bytes (length of the payload, stream id, type, flags; big endian), then the
 * payload. Source of the rules: PROTOCOL.md of github.com/containerd/ttrpc.
 */

/** Largest payload in bytes. A larger one is never sent, and is skipped when it arrives. */
export const MAX_PAYLOAD = 4 << 20;

export const HEADER_SIZE = 10;

export const FRAME = { REQUEST: 1, RESPONSE: 2, DATA: 3 } as const;

export interface Frame {
  stream: number;
  type: number;
  flags: number;
  payload: Uint8Array;
  /** True when the header's length is above {@link MAX_PAYLOAD}: the payload is empty here and skipped on the wire. */
  oversize: boolean;
}

/** Encodes one frame into one buffer, so that a single write sends it. */
export function encodeFrame(stream: number, type: number, payload: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(HEADER_SIZE + payload.length);
  frame.writeUInt32BE(payload.length, 0);
  frame.writeUInt32BE(stream, 4);
  frame[8] = type;
  frame[9] = 0; // unary calls set no flags
  frame.set(payload, HEADER_SIZE);
  return frame;
}

/** Splits a byte stream into frames; chunks may end anywhere. */
export class FrameReader {
  #chunks: Buffer[] = [];
  #size = 0;
  /** Bytes of an oversize payload that have not arrived yet and are to be skipped. */
  #skip = 0;
  readonly #onFrame: (frame: Frame) => void;

  constructor(onFrame: (frame: Frame) => void) {
    this.#onFrame = onFrame;
  }

  push(chunk: Buffer): void {
    if (this.#skip > 0) {
      const skipped = Math.min(this.#skip, chunk.length);
      this.#skip -= skipped;
      chunk = chunk.subarray(skipped);
    }
    if (chunk.length === 0) return;
    this.#chunks.push(chunk);
    this.#size += chunk.length;
    while (this.#size >= HEADER_SIZE) {
      const header = this.#peekHeader();
      const length = header.readUInt32BE(0);
      const frame = { stream: header.readUInt32BE(4), type: header.readUInt8(8), flags: header.readUInt8(9) };
      if (length > MAX_PAYLOAD) {
        const present = Math.min(length, this.#size - HEADER_SIZE);
        this.#skip = length - present;
        this.#take(HEADER_SIZE + present);
        this.#onFrame({ ...frame, payload: new Uint8Array(0), oversize: true });
        continue;
      }
      if (this.#size < HEADER_SIZE + length) return;
      const bytes = this.#take(HEADER_SIZE + length);
      this.#onFrame({ ...frame, payload: bytes.subarray(HEADER_SIZE), oversize: false });
    }
  }

  #peekHeader(): Buffer {
    const [first] = this.#chunks;
    if (first && first.length >= HEADER_SIZE) return first;
    this.#chunks = [Buffer.concat(this.#chunks)];
    return this.#chunks[0] as Buffer;
  }

  /** Removes `count` bytes from the front. Chunks are joined only here, so a large payload is copied once. */
  #take(count: number): Buffer {
    const [first] = this.#chunks;
    const all = first && this.#chunks.length === 1 ? first : Buffer.concat(this.#chunks);
    this.#size -= count;
    this.#chunks = this.#size > 0 ? [all.subarray(count)] : [];
    return all.subarray(0, count);
  }
}
