import assert from 'node:assert/strict';
import { Pool } from '../../src/node/threads/pool.ts';
import { workerEntry } from '../../src/node/threads/worker-entry.ts';
import { FileQueue, fileQueueMemory } from '../../src/workers/image/file-queue.ts';
import { giveWayMemory } from '../../src/workers/image/give-way.ts';
import type { handlers, ImageWorkerData } from '../../src/workers/image.ts';

/** An image pool with one thread, which has no layer so far. */
export async function imageThread({ memory = fileQueueMemory(), giveWay = giveWayMemory() } = {}) {
  const pool = new Pool<typeof handlers>({
    name: 'image',
    file: workerEntry('image'),
    minThreads: 1,
    maxThreads: 1,
    callsPerThread: 1,
    maxQueue: 1,
    workerData: (): ImageWorkerData => ({ memory, giveWay }),
  });
  await pool.call('warm', undefined);
  assert.equal(new FileQueue(memory).helpers, 1);
  return pool;
}

/** A thread of an image pool that has no layer, and helps with those whose files come into `memory`. */
export async function helpingThread(memory = fileQueueMemory()): Promise<AsyncDisposable & { memory: typeof memory }> {
  const pool = await imageThread({ memory });
  return { memory, [Symbol.asyncDispose]: () => pool[Symbol.asyncDispose]() };
}
