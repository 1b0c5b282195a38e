import type { handlers as imageHandlers } from '../../workers/image.ts';
import type { handlers as netHandlers } from '../../workers/net.ts';
import type { handlers as registryHandlers } from '../../workers/registry.ts';
import type { handlers as shimHandlers } from '../../workers/shim.ts';
import { Pool } from './pool.ts';

/** The worker pools of one daemon. */
export interface Pools extends AsyncDisposable {
  net: Pool<typeof netHandlers>;
  shim: Pool<typeof shimHandlers>;
  image: Pool<typeof imageHandlers>;
  registry: Pool<typeof registryHandlers>;
}

const entry = (name: string) => new URL(`../../workers/${name}.ts`, import.meta.url);

/**
 * Starts the pools. A thread costs 12 MiB and 19 ms, so there are few: net and shim wait for processes without holding a thread
 * and serve many calls each; the image pool, which decompresses, has a thread per core while there is something to pull, and two layers on
 * each, of which one may wait for its registry; the small requests to registries have a thread beside it.
 */
export function startPools(): Pools {
  const net = new Pool<typeof netHandlers>({
    name: 'net',
    file: entry('net'),
    minThreads: 1,
    maxThreads: 2,
    callsPerThread: 64,
    maxQueue: 10_000,
  });
  const shim = new Pool<typeof shimHandlers>({
    name: 'shim',
    file: entry('shim'),
    minThreads: 1,
    maxThreads: 2,
    callsPerThread: 64,
    maxQueue: 10_000,
  });
  const image = new Pool<typeof imageHandlers>({
    name: 'image',
    file: entry('image'),
    minThreads: 0,
    maxThreads: 4,
    callsPerThread: 2,
    maxQueue: 10_000,
  });
  const registry = new Pool<typeof registryHandlers>({
    name: 'registry',
    file: entry('registry'),
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
