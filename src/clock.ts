/** How far the two clocks may part before the wall clock was set, by an operator or by NTP. */
const JUMP = 5_000_000n;

let wall = BigInt(Date.now()) * 1_000_000n;
let monotonic = process.hrtime.bigint();

/**
 * Nanoseconds since the epoch, which is what every time in CRI is. Node's wall clock knows milliseconds; the monotonic clock
 * fills in the rest, so that two things that happen in one millisecond keep their order.
 */
export function nowNs(): bigint {
  const ticks = process.hrtime.bigint();
  const exact = wall + (ticks - monotonic);
  const coarse = BigInt(Date.now()) * 1_000_000n;
  if (exact - coarse <= JUMP && coarse - exact <= JUMP) return exact;
  wall = coarse;
  monotonic = ticks;
  return coarse;
}
