/** Buffers for bytes between the read that received them and the write that sends them. */

/** Size of one read, see {@link FifoReader}. */
export const CHUNK = 64 << 10;
/** A copy of this size or less is cheaper without the pool. */
const SMALL = 4 << 10;
const KEPT = 64;

const free: Buffer[] = [];

/**
 * Returns a copy of `bytes` (at most {@link CHUNK}, with `room` bytes in front), and a callback for a stream's `write`.
 * Before the pool a quarter of the time that copying output takes was garbage collection of such buffers. Only a
 * successful write returns the buffer to the pool, since after a failed one the kernel's queue may still refer to it.
 */
export function pooledCopy(bytes: Uint8Array, room = 0): { copy: Buffer; written: (error?: Error | null) => void } {
  const size = bytes.length + room;
  if (size <= SMALL || bytes.length > CHUNK || room > 16) {
    const copy = Buffer.allocUnsafe(size);
    copy.set(bytes, room);
    return { copy, written: () => {} };
  }
  const buffer = free.pop() ?? Buffer.allocUnsafeSlow(CHUNK + 16);
  buffer.set(bytes, room);
  return {
    copy: buffer.subarray(0, size),
    written: (error) => {
      if (!error && free.length < KEPT) free.push(buffer);
    },
  };
}
