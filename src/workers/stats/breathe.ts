const SLICE_MS = 5;

/** Lets the thread's other calls run when `work` has had it for a slice. `await breathe()` in the loop of a long walk. */
export function breather(): () => Promise<void> {
  let began = performance.now();
  return async () => {
    if (performance.now() - began < SLICE_MS) return;
    await new Promise(setImmediate);
    began = performance.now();
  };
}
