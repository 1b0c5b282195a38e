const SLICE_MS = 5;

/**
 * For loops that occupy a thread for long. The returned function lets the thread's other calls run once the loop has
 * run for 5 ms, and resolves at once before that.
 */
export function yielder(): () => Promise<void> {
  let began = performance.now();
  return async () => {
    if (performance.now() - began < SLICE_MS) return;
    await new Promise(setImmediate);
    began = performance.now();
  };
}
