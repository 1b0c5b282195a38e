import { createHash } from 'node:crypto';
import { SluiceError } from '../../../errors.ts';
import type { Config } from '../../config/config.ts';
import { Snapshots } from '../../grpc/snapshots.ts';
import type { LayerStore } from '../layer-store.ts';
import { Layers, type LayersOptions } from '../layers.ts';
import type { ImageRow } from '../rows.ts';
import { Native } from './native.ts';
import { Overlayfs } from './overlayfs.ts';
import { ProxySnapshotter } from './proxy.ts';
import { DAEMON, ProxyLayers } from './proxy-layers.ts';
import type { Snapshotter, SnapshotWorker } from './snapshotter.ts';

export interface SnapshotterOptions extends LayersOptions {
  config: Pick<Config, 'images'>;
  worker: SnapshotWorker;
  /** Stores an image's row that was changed; not one that is not in its table yet. */
  storeImage: (image: ImageRow) => void;
}

/**
 * The snapshotter that the configuration chooses, where it has its layers, and the connection to it, if any, which the
 * caller closes. Throws CONFIG_INVALID.
 */
export function makeSnapshotter(options: SnapshotterOptions): {
  layers: LayerStore;
  snapshotter: Snapshotter;
  client?: Disposable;
} {
  const { config, root, worker, storeImage: store } = options;
  const { snapshotter, snapshotter_socket: socket, snapshotter_name: name } = config.images;
  if (snapshotter === 'proxy') {
    if (socket === '')
      throw new SluiceError('CONFIG_INVALID', 'images.snapshotter is "proxy", and images.snapshotter_socket is empty');
    const client = new Snapshots({ socket, name });
    const labels = {
      [DAEMON]: createHash('sha256').update(root).digest('hex').slice(0, 16),
      // containerd, as a proxy's other end, removes what nothing of its own refers to and has no such label.
      'containerd.io/gc.root': new Date().toISOString(),
    };
    return {
      client,
      layers: new ProxyLayers({ ...options, client, labels }),
      snapshotter: new ProxySnapshotter({ client, worker, labels }),
    };
  }
  if (snapshotter === 'native') {
    const layers = new Layers({ ...options, whiteouts: 'files' });
    const layerFolders = (image: ImageRow) => layers.stack(image.layers);
    return { layers, snapshotter: new Native({ root, worker, layerFolders, store }) };
  }
  const layers = new Layers(options);
  const volatile = () => config.images.volatile;
  return {
    layers,
    snapshotter: new Overlayfs({ worker, volatile, layerFolders: (image) => layers.stack(image.layers) }),
  };
}
