import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { explain } from '../errors.ts';
import type { Config } from '../node/config/config.ts';
import type { Log } from '../node/observe/log.ts';
import type { Metrics } from '../node/observe/metrics.ts';
import { Store } from '../node/store/store.ts';
import type { Pools } from '../node/threads/pools.ts';
import { ballastOf } from '../workers/store/ballast.ts';

const CHECKPOINT_MS = 30_000;

interface StoreSurroundings {
  config: Config;
  pools: Pools;
  metrics: Metrics;
  log: Log;
  /** What is closed when the daemon ends. */
  resources: AsyncDisposableStack;
}

/**
 * Opens the store with its copies, and makes a checkpoint every {@link CHECKPOINT_MS} in which something was written.
 */
export function openStore({ config, pools, metrics, log, resources }: StoreSurroundings): Store {
  const { root, state } = config;
  const folder = (top: string, table: string) => join(top, 'rows', table);
  const store = resources.use(
    new Store(join(root, 'sluice.db'), {
      log,
      onWrite: (seconds) => metrics.observe('storeWrite', {}, seconds),
      copies: {
        // The copies live where the things are: pods end with the state folder, images with the root folder.
        folders: {
          sandboxes: folder(state, 'sandboxes'),
          containers: folder(state, 'containers'),
          images: folder(root, 'images'),
          layers: folder(root, 'layers'),
        },
        writer: {
          writeCopies: (input) => pools.store.call('writeCopies', input),
          syncCopies: (input) => pools.store.call('syncCopies', input),
        },
      },
    }),
  );
  if (store.copies) resources.use(store.copies);
  void store.syncCopies(); // never rejects: what cannot be written is logged
  const timer = setInterval(checkpoints(store, pools, log), CHECKPOINT_MS).unref();
  resources.defer(() => clearInterval(timer));
  return store;
}

/**
 * Makes a function that runs one checkpoint, unless nothing was written since the last one. It logs failures and never
 * rejects.
 */
function checkpoints(store: Store, pools: Pools, log: Log): () => Promise<void> {
  let done = 0;
  const failures = new Map<string, string>();
  const attempt = async (what: string, work: () => Promise<void>) => {
    try {
      await work();
      if (failures.delete(what)) log.info(`${what} is possible again`);
    } catch (error) {
      const reason = explain(error);
      if (failures.get(what) !== reason)
        log.error({ reason }, `${what} failed; it is tried every ${CHECKPOINT_MS / 1000} s`);
      failures.set(what, reason);
    }
  };
  return async () => {
    if (!existsSync(ballastOf(store.path))) {
      await attempt('keeping room beside the store', () => pools.store.call('takeBallast', { path: store.path }));
    }
    const { changes } = store;
    if (changes === done) return;
    await attempt('the checkpoint of the store', async () => {
      const { wal, moved } = await pools.store.call('checkpoint', { path: store.path });
      if (moved === wal) done = changes;
    });
  };
}
