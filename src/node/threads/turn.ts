/** Turns of the event loop, for what is spread over several of them. */

/** Milliseconds of a turn that go to one kind of work that comes in bursts; a piece that has begun is not cut. */
export const BUDGET_MS = 1.5;

/** Which turn of the event loop it is. A `setImmediate` for each piece would cost those that come alone a turn more. */
export const turnNumber = (): number => performance.nodeTiming.uvMetricsInfo.loopCount;

/** Calls `next` in this turn when all that has been started is done at once, microtasks and ticks included. */
export function afterwards(next: () => void): void {
  // A tick alone would come before the microtasks.
  queueMicrotask(() => process.nextTick(next));
}
