import type { Log } from '../observe/log.ts';
import type { Table } from '../store/table.ts';
import type { BlobStore } from './blob-store.ts';
import type { LayerStore } from './layer-store.ts';
import type { ImageRow } from './rows.ts';
import type { Snapshotter } from './snapshotters/snapshotter.ts';

export interface SweeperOptions {
  images: Table<ImageRow>;
  layers: LayerStore;
  blobs: BlobStore;
  snapshotter: Snapshotter;
  /** Ids of the images that containers and pods were made from. */
  usedImages: () => Promise<Set<string>>;
  log: Log;
}

/** How often images that were removed while in use are examined. */
const SWEEP_MS = 60_000;

/** Removes what no image needs any longer: rows without names, layers, trees of the snapshotter, blobs. */
export class Sweeper {
  readonly #options: SweeperOptions;
  /** Pulls and imports in flight: blobs that no record names yet may be theirs. */
  #busy = 0;
  #again: NodeJS.Timeout | undefined;

  constructor(options: SweeperOptions) {
    this.#options = options;
  }

  /** What `work` makes is not swept before it has ended. */
  async during<T>(work: () => Promise<T>): Promise<T> {
    this.#busy++;
    try {
      return await work();
    } finally {
      this.#busy--;
    }
  }

  /** Removes images without names that nobody uses, and layers of no image. */
  async sweep(): Promise<void> {
    const { images, layers, snapshotter, usedImages, log } = this.#options;
    const nameless = () => [...images.values()].filter(({ names }) => names.length === 0);
    if (nameless().length > 0) {
      const used = await usedImages();
      for (const row of nameless()) {
        if (used.has(row.id)) continue;
        images.delete(row.id);
      }
    }
    // What the snapshotter makes of an image stands on its layers.
    const trees = this.#busy > 0 ? Promise.resolve() : snapshotter.sweep([...images.values()]);
    const removed = Promise.all([trees.then(() => layers.sweep(layersOf(images))), this.#sweepBlobs()]);
    clearTimeout(this.#again);
    if (nameless().length === 0) return void (await removed);
    const again = () => this.sweep().catch((err) => log.error({ err }, 'removed images could not be swept'));
    this.#again = setTimeout(again, SWEEP_MS).unref();
    await removed;
  }

  async #sweepBlobs(): Promise<void> {
    const rows = [...this.#options.images.values()];
    const used = rows.flatMap(({ blobs }) => (blobs ? [blobs.manifest, blobs.config, ...blobs.layers] : []));
    await this.#options.blobs.sweep(new Set(used.map(({ digest }) => digest)), this.#busy > 0);
  }
}

/** Ids of the layers that images have. */
export function layersOf(images: Table<ImageRow>): Set<string> {
  return new Set([...images.values()].flatMap(({ layers }) => layers));
}
