/**
 * A program: loads what the worker threads run, so that Node's compile cache has it (src/main/compile-workers.ts starts
 * it).
 */
import { createRequire, flushCompileCache } from 'node:module';
import { fileURLToPath } from 'node:url';
import { WORKERS, type WorkerName, workerEntry } from '../node/threads/worker-entry.ts';

// As piscina loads them, since the cache goes by the way as well as by the file.
const require = createRequire(import.meta.url);
const alone: WorkerName[] = ['stdio', 'digest'];
for (const name of WORKERS) if (!alone.includes(name)) require(fileURLToPath(workerEntry(name)));
for (const name of alone) {
  try {
    await import(workerEntry(name).href);
  } catch (error) {
    // It will not run outside a thread, which it says once it and all its parts are compiled.
    if (!(error instanceof Error && error.message === 'this file is a worker thread’s')) throw error;
  }
}
flushCompileCache();
