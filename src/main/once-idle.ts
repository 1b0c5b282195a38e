import type { Admission } from '../pipeline/engine/admission.ts';

/** How often it looks, and how often before it does the work in any case. */
const LOOKS = { everyMs: 500, most: 120 };

/**
 * Does what can wait once no job has run or come for a while, or after a minute: after a restart, calls that have
 * waited for the daemon need the processors first.
 */
export function onceIdle(
  admission: Pick<Admission, 'use' | 'admitted'>,
  work: () => void,
  { everyMs, most } = LOOKS,
): Disposable {
  let last = admission.admitted;
  let looks = 0;
  const timer = setInterval(() => {
    const { admitted, use } = admission;
    const idle = admitted === last && Object.values(use).every(({ running }) => running === 0);
    last = admitted;
    looks++;
    if (!idle && looks < most) return;
    clearInterval(timer);
    work();
  }, everyMs).unref();
  return { [Symbol.dispose]: () => clearInterval(timer) };
}
