import type { handlers as imageHandlers } from '../../workers/image.ts';
import type { handlers as netHandlers } from '../../workers/net.ts';
import type { handlers as registryHandlers } from '../../workers/registry.ts';
import type { handlers as shimHandlers } from '../../workers/shim.ts';
import { Pool } from './pool.ts';
import { workerEntry } from './worker-entry.ts';

/** The worker pools of one daemon. */
export interface Pools extends AsyncDisposable {
  net: Pool<typeof netHandlers>;
  shim: Pool<typeof shimHandlers>;
  image: Pool<typeof imageHandlers>;
  registry: Pool<typeof registryHandlers>;
}

/**
 * Starts the pools. A thread costs 12 MiB and 19 ms, so there are few: net and shim wait for processes without holding
 * a thread and serve many calls each; the image pool, which decompresses, has a thread per core while there is
 * something to pull, and the questions to registries have one beside it.
 */
export function startPools(): Pools {
  const net = new Pool<typeof netHandlers>({
    name: 'net',
    file: workerEntry('net'),
    minThreads: 1,
    maxThreads: 2,
    callsPerThread: 64,
    maxQueue: 10_000,
  });
  const shim = new Pool<typeof shimHandlers>({
    name: 'shim',
    file: workerEntry('shim'),
    minThreads: 1,
    maxThreads: 2,
    callsPerThread: 64,
    maxQueue: 10_000,
  });
  const image = new Pool<typeof imageHandlers>({
    name: 'image',
    file: workerEntry('image'),
    minThreads: 0,
    maxThreads: 4,
    callsPerThread: 1,
    maxQueue: 10_000,
  });
  const registry = new Pool<typeof registryHandlers>({
    name: 'registry',
    file: workerEntry('registry'),
    minThreads: 0,
    maxThreads: 1,
    callsPerThread: 64,
    maxQueue: 10_000,
  });
  return {
    net,
    shim,
    image,
    registry,
    async [Symbol.asyncDispose]() {
      await Promise.all([net, shim, image, registry].map((pool) => pool[Symbol.asyncDispose]()));
    },
  };
}
