/**
 * Thrown when a thread could not leave a namespace that it had entered. Such a thread must not run anything else:
 * whoever catches this ends the worker, and the pool starts another.
 */
export class StrandedThread extends Error {
  override readonly name = 'StrandedThread';
}
