/**
 * Thrown when a thread could not leave a namespace that it had entered. Such a thread must not run anything else:
 * whoever catches this ends the worker, and the pool starts another.
 */
export class StrandedThread extends Error {
  override readonly name = 'StrandedThread';
}

/** Whether `error` is one, or has come together with one while resources were given back. */
export function isStranded(error: unknown): boolean {
  if (error instanceof SuppressedError) return isStranded(error.error) || isStranded(error.suppressed);
  return error instanceof StrandedThread;
}
