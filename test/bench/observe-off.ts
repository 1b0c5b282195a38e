/**
 * Preloaded into a daemon (NODE_OPTIONS=--import) by observe-cost.ts: everything that watches launches does nothing
 * there. What is left is what the pipeline does to tell: calls of empty methods, and the times that workers send along
 * with their results.
 */
import { isMainThread } from 'node:worker_threads';

// Workers inherit the option, and observe nothing.
if (isMainThread) {
  const [{ Metrics }, { Observer }, { NO_OBSERVER }] = await Promise.all([
    import('../../src/node/observe/metrics.ts'),
    import('../../src/node/observe/observer.ts'),
    import('../../src/pipeline/engine/observer.ts'),
  ]);
  Object.assign(Observer.prototype, NO_OBSERVER);

  const nothing = () => {};
  const { readFrom } = Metrics.prototype;
  Object.assign(Metrics.prototype, {
    inc: nothing,
    set: nothing,
    observe: nothing,
    grpc: nothing,
    shimCall: nothing,
    cni: nothing,
    // Called once, when the daemon is put together: the moment to end the timer that looks at the event loop, and the
    // watch on GC.
    readFrom(this: InstanceType<typeof Metrics>, ...sources: Parameters<typeof readFrom>) {
      readFrom.apply(this, sources);
      this[Symbol.dispose]();
    },
  });
}
