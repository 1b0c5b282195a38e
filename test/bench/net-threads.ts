/**
 * Preloaded into a daemon (NODE_OPTIONS=--import) by growth.ts: its net pool has SLUICE_BENCH_NET_THREADS threads,
 * however many cores the machine has. The product has no switch for it, so the text of the file that starts the pools
 * is changed as it is loaded.
 */
import { registerHooks } from 'node:module';
import { isMainThread } from 'node:worker_threads';

const POOLS = /\/src\/node\/threads\/pools\.ts$/;

// Workers inherit the option, and have no pools.
if (isMainThread) {
  const threads = Number(process.env.SLUICE_BENCH_NET_THREADS);
  if (!Number.isInteger(threads) || threads < 1) throw new Error('SLUICE_BENCH_NET_THREADS wants a whole number');
  registerHooks({
    load(url, context, next) {
      const loaded = next(url, context);
      if (POOLS.test(url)) {
        const net = /(name: 'net',[^}]*?minThreads: )1(,\s*maxThreads: )\d+/;
        return { ...loaded, source: changed(`${loaded.source}`, net, `$1${threads}$2${threads}`) };
      }
      return loaded;
    },
  });
}

function changed(source: string, from: RegExp, to: string): string {
  if (!from.test(source)) throw new Error(`net-threads.ts finds no ${from} to change`);
  return source.replace(from, to);
}
