/** Where bytes wait between the read that brought them and the write that takes them along. */

/** One read, see {@link FifoReader}. */
export const CHUNK = 64 << 10;
/** Below this a copy is cheaper than the pool. */
const SMALL = 4 << 10;
const KEPT = 64;

const free: Buffer[] = [];

/**
 * A copy of `bytes` (at most {@link CHUNK}, plus `room` bytes in front) and what to call when it has been written. A quarter of the time
 * that moving bytes takes was garbage collection of such buffers before they came from a pool. The callback fits a stream's `write`: only
 * a write that succeeded gives the buffer back, since after a failed one the kernel's queue may still hold it.
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
