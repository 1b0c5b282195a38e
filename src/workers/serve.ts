/**
 * The worker side of a call: an entry file passes its functions to {@link serve} and exports the result as default;
 * main calls them by name (src/node/threads/pool.ts). Inputs and outputs are plain data, and so are errors on the way
 * ({@link PlainError}).
 */
import { isMainThread } from 'node:worker_threads';
import { type PlainError, toPlain } from '../errors.ts';
import { restoreNice } from '../sys/nice.ts';
import { isStranded } from '../sys/stranded-thread.ts';

// biome-ignore lint/suspicious/noExplicitAny: the parameter type of a handler is its own business; Pool.call checks it
export type Handlers = Record<string, (input: any) => unknown>;

export interface Call {
  op: string;
  input: unknown;
}

/** Answered by every worker: its thread has loaded what it runs. */
export const READY = 'ready';

export type Reply = { ok: true; value: unknown; seconds: number } | { ok: false; error: PlainError; seconds: number };

/**
 * Makes the function that a piscina worker exports. `seconds` in the reply is the duration of the work, without the
 * time in the queue.
 */
export function serve(handlers: Handlers): (call: Call) => Promise<Reply> {
  if (!isMainThread) restoreNice();
  return async ({ op, input }) => {
    const began = performance.now();
    const seconds = () => (performance.now() - began) / 1000;
    try {
      const handler = op === READY ? () => null : handlers[op];
      if (!handler) throw new Error(`this worker has no "${op}"`);
      return { ok: true, value: await handler(input), seconds: seconds() };
    } catch (error) {
      // A thread in the wrong namespace must not run another task: it exits, and the pool replaces it.
      if (isStranded(error)) process.exit(1);
      return { ok: false, error: toPlain(error), seconds: seconds() };
    }
  };
}
