import type { PoolName } from '../../stages.ts';
import { fileQueueMemory } from '../../workers/image/file-queue.ts';
import { giveWayMemory, LateLaunches } from '../../workers/image/give-way.ts';
import type { ImageWorkerData, handlers as imageHandlers } from '../../workers/image.ts';
import type { handlers as netHandlers } from '../../workers/net.ts';
import type { handlers as registryHandlers } from '../../workers/registry.ts';
import type { handlers as shimHandlers } from '../../workers/shim.ts';
import type { handlers as storeHandlers } from '../../workers/store.ts';
import { ROOMY_HEAP } from './heaps.ts';
import { Pool } from './pool.ts';
import { workerEntry } from './worker-entry.ts';

/** The worker pools of one daemon. */
export interface Pools extends AsyncDisposable {
  net: Pool<typeof netHandlers>;
  shim: Pool<typeof shimHandlers>;
  image: Pool<typeof imageHandlers>;
  registry: Pool<typeof registryHandlers>;
  store: Pool<typeof storeHandlers>;
  /** Hears of launches, for which the image pool gives way. */
  launches: Pick<LateLaunches, 'begin'>;
}

/**
 * Milliseconds: a registry may take some seconds between two answers of one pull, and pulls come in rows; a thread that
 * is there has fast code for the next one, which saves it a tenth of a second of CPU and more.
 */
const PULL_IDLE_MS = 30_000;

/**
 * Starts the pools. A thread costs 10 MiB and 25 ms, so there are few: net and shim wait for processes without holding
 * a thread and serve many calls each; the image pool, which decompresses, has a thread per core while there is
 * something to pull, and two layers on each, of which one may wait for its registry; the small requests to registries
 * have a thread beside it. The store has one for what waits for the disk.
 */
export function startPools(onError?: (pool: PoolName, error: Error) => void): Pools {
  const giveWay = giveWayMemory();
  const net = new Pool<typeof netHandlers>({
    name: 'net',
    onError: (error) => onError?.('net', error),
    file: workerEntry('net'),
    minThreads: 1,
    maxThreads: 2,
    callsPerThread: 64,
    maxQueue: 10_000,
  });
  const shim = new Pool<typeof shimHandlers>({
    name: 'shim',
    onError: (error) => onError?.('shim', error),
    file: workerEntry('shim'),
    minThreads: 1,
    maxThreads: 2,
    callsPerThread: 64,
    maxQueue: 10_000,
  });
  const image = new Pool<typeof imageHandlers>({
    name: 'image',
    onError: (error) => onError?.('image', error),
    file: workerEntry('image'),
    minThreads: 0,
    maxThreads: 4,
    callsPerThread: 2,
    maxQueue: 10_000,
    idleMs: PULL_IDLE_MS,
    heap: ROOMY_HEAP,
    workerData: (): ImageWorkerData => ({ memory: fileQueueMemory(), giveWay }),
  });
  const registry = new Pool<typeof registryHandlers>({
    name: 'registry',
    onError: (error) => onError?.('registry', error),
    file: workerEntry('registry'),
    minThreads: 0,
    maxThreads: 1,
    callsPerThread: 64,
    maxQueue: 10_000,
    idleMs: PULL_IDLE_MS,
  });
  const store = new Pool<typeof storeHandlers>({
    name: 'store',
    onError: (error) => onError?.('store', error),
    file: workerEntry('store'),
    minThreads: 0,
    maxThreads: 1,
    callsPerThread: 1,
    maxQueue: 10_000,
  });
  return {
    net,
    shim,
    image,
    registry,
    store,
    launches: new LateLaunches(giveWay),
    async [Symbol.asyncDispose]() {
      await Promise.all([net, shim, image, registry, store].map((pool) => pool[Symbol.asyncDispose]()));
    },
  };
}
