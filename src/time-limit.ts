/** The longest delay that a timer of Node takes; a longer one would fire at once. */
const MAX_DELAY_MS = 0x7fffffff;

/**
 * Settles as `work` does if that happens within `ms` milliseconds, and with what `late` returns or throws otherwise.
 * The work itself is not stopped. A rejection that comes after the limit is dropped.
 */
export async function withTimeLimit<T, L>(work: Promise<T>, ms: number, late: () => L): Promise<T | L> {
  const { promise, resolve } = Promise.withResolvers<typeof LATE>();
  const timer = setTimeout(resolve, Math.min(ms, MAX_DELAY_MS), LATE);
  try {
    const outcome = await Promise.race([work, promise]);
    return outcome === LATE ? late() : (outcome as T);
  } finally {
    clearTimeout(timer);
  }
}

const LATE = Symbol('late');
