import { layerMounts, viewOf } from '../mounts.ts';
import type { ImageRow } from '../rows.ts';
import type { LayerMount, Snapshotter, SnapshotWorker, Usage, WritableSnapshot } from './snapshotter.ts';

export interface OverlayfsOptions {
  worker: SnapshotWorker;
  /** The `fs` folders of an image's layers, topmost first. */
  layerFolders: (image: ImageRow) => string[];
  /** Syncs of containers to their own layer do nothing. */
  volatile: () => boolean;
}

/** Overlays of the layers' folders: a snapshot costs a mount, whatever the image's size. */
export class Overlayfs implements Snapshotter {
  readonly name = 'overlayfs';
  readonly #options: OverlayfsOptions;

  constructor(options: OverlayfsOptions) {
    this.#options = options;
  }

  async prepare({ dir, owner }: WritableSnapshot & { owner?: { uid: number; gid: number } }): Promise<void> {
    await this.#options.worker.prepare({ dir, owner });
  }

  async mounts({ dir, image }: WritableSnapshot): Promise<LayerMount[]> {
    return layerMounts(this.#options.layerFolders(image), dir, this.#options.volatile());
  }

  async view(image: ImageRow): Promise<LayerMount[]> {
    return viewOf(this.#options.layerFolders(image));
  }

  async folders(image: ImageRow): Promise<string[]> {
    return this.#options.layerFolders(image);
  }

  usage(): Usage {
    return { bytes: 0, inodes: 0 };
  }

  async adopt(): Promise<void> {}

  async sweep(): Promise<void> {}
}
