/**
 * The images service with real workers, without a daemon around it: for tests of what comes from registries and
 * archives.
 */
import type { AuthConfig } from '../../proto/gen/cri.ts';
import { Images, type ImagesOptions } from '../../src/node/images/images.ts';
import type { LayerProgress } from '../../src/node/images/layer-store.ts';
import type { ImageRow, LayerRow } from '../../src/node/images/rows.ts';
import { snapshotWorker } from '../../src/node/images/snapshotters/worker.ts';
import { createLog } from '../../src/node/observe/log.ts';
import { Table } from '../../src/node/store/table.ts';
import type { Pools } from '../../src/node/threads/pools.ts';
import { hostFiles } from '../../src/workers/host-paths/read-file.ts';

export interface ImagesRigOptions {
  root: string;
  registryConfig?: string;
  progressTimeoutSeconds?: number;
  keepBlobs?: boolean;
  signaturePolicy?: string;
  snapshotter?: 'overlayfs' | 'native' | 'proxy';
  snapshotterSocket?: string;
  snapshotterName?: string;
  onLayer?: ImagesOptions['onLayer'];
  onFetched?: ImagesOptions['onFetched'];
}

/** Starts it on `root`, an empty folder. */
export async function makeImages(pools: Pools, options: ImagesRigOptions): Promise<Images> {
  const images = new Images({
    files: hostFiles,
    config: {
      root: options.root,
      images: {
        sandbox_image: '',
        registry_config: options.registryConfig ?? '/nonexistent',
        max_downloads: 4,
        progress_timeout_seconds: options.progressTimeoutSeconds ?? 10,
        credentials: '',
        volatile: false,
        snapshotter: options.snapshotter ?? 'overlayfs',
        snapshotter_socket: options.snapshotterSocket ?? '',
        snapshotter_name: options.snapshotterName ?? 'overlayfs',
        keep_blobs: options.keepBlobs ?? false,
        import_folder: '',
        quota: '',
        gc_high_percent: 0,
        gc_low_percent: 80,
        signature_policy: options.signaturePolicy ?? '',
      },
    },
    pool: pools.image,
    ask: (question) => pools.registry.call('ask', question),
    images: new Table<ImageRow>(),
    layers: new Table<LayerRow>(),
    log: createLog({ level: 'error' }),
    usedImages: async () => new Set(),
    diskUsage: (dir) => pools.shim.call('diskUsage', { folder: dir }),
    lookUpUser: (input) => pools.image.call('lookUpUser', input),
    removeLayer: (dir) => pools.shim.call('removeLayer', { dir }),
    snapshots: snapshotWorker(pools),
    warmRegistry: () => pools.registry.call('warm', undefined),
    installPause: (dir) => pools.image.call('installPause', { dir }),
    onLayer: options.onLayer ?? (() => {}),
    onFetched: options.onFetched ?? (() => {}),
    onSynced: () => {},
    onCollected: () => {},
    onRetry: () => {},
  });
  await images.recover();
  return images;
}

export interface RigPull {
  auth?: AuthConfig;
  signal?: AbortSignal;
  progress?: LayerProgress[];
}

/** All stages of a pull, with its clean-up. */
export async function pullImage(images: Images, reference: string, options: RigPull = {}): Promise<ImageRow> {
  const held: string[] = [];
  try {
    const resolved = await images.resolve(reference, options.auth);
    const layers = await images.fetchLayers(resolved, { ...options, onHold: (id) => held.push(id) });
    return await images.commit(resolved, layers);
  } finally {
    images.release(held);
    await images.sweep();
  }
}
