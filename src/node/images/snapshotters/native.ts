import { join } from 'node:path';
import { namesIn } from '../../../sys/folder.ts';
import { syncFileSystem } from '../../../sys/sync.ts';
import { viewOf } from '../mounts.ts';
import type { ImageRow } from '../rows.ts';
import type { LayerMount, Snapshotter, SnapshotWorker, Usage, WritableSnapshot } from './snapshotter.ts';

export interface NativeOptions {
  /** The daemon's root folder. */
  root: string;
  worker: SnapshotWorker;
  /** The `fs` folders of an image's layers, topmost first. */
  layerFolders: (image: ImageRow) => string[];
  /** Stores a row that was changed. */
  store: (image: ImageRow) => void;
}

/**
 * Plain folders, for file systems on which there can be no overlay (another overlay, NFS). The layers of an image are
 * laid into one tree, of hard links, so that it costs folders alone; each container gets a copy of it, which shares its
 * blocks where the file system can (btrfs, xfs).
 */
export class Native implements Snapshotter {
  readonly name = 'native';
  readonly #options: NativeOptions;
  readonly #merging = new Map<string, Promise<void>>();
  readonly #trees = new Map<string, Usage>();

  constructor(options: NativeOptions) {
    this.#options = options;
  }

  /** The copy belongs to root of the host: in a pod's user namespace its mount is idmapped. */
  async prepare({ dir, image }: WritableSnapshot): Promise<void> {
    await this.adopt(image);
    await this.#options.worker.copy({ from: this.#treeOf(image), dir });
  }

  async mounts({ dir }: WritableSnapshot): Promise<LayerMount[]> {
    return [{ type: 'bind', source: join(dir, 'fs'), target: '', options: ['rbind', 'rw'] }];
  }

  async view(image: ImageRow): Promise<LayerMount[]> {
    await this.adopt(image);
    return viewOf([this.#treeOf(image)]);
  }

  async folders(image: ImageRow): Promise<string[]> {
    await this.adopt(image);
    return [this.#treeOf(image)];
  }

  usage(): Usage {
    const all = [...this.#trees.values()];
    return {
      bytes: all.reduce((sum, { bytes }) => sum + bytes, 0),
      inodes: all.reduce((sum, { inodes }) => sum + inodes, 0),
    };
  }

  /** Makes the image's tree, once: an image that another snapshotter has pulled has none. */
  async adopt(image: ImageRow): Promise<void> {
    if (image.merged) {
      this.#trees.set(image.id, image.merged);
      return;
    }
    let merging = this.#merging.get(image.id);
    if (!merging) {
      merging = this.#merge(image).finally(() => this.#merging.delete(image.id));
      this.#merging.set(image.id, merging);
    }
    await merging;
  }

  async #merge(image: ImageRow): Promise<void> {
    const { worker, layerFolders, store } = this.#options;
    const dir = this.#dirOf(image.id);
    // What a daemon left that was killed before it wrote the row may not be on the disk as a whole.
    await worker.removeLayer({ dir });
    const usage = await worker.merge({ layers: layerFolders(image).reverse(), dir });
    await syncFileSystem(this.#folder);
    image.merged = usage;
    this.#trees.set(image.id, usage);
    store(image);
  }

  /** Not while an image is being adopted whose row nobody has yet: the caller sees to that. */
  async sweep(images: readonly ImageRow[]): Promise<void> {
    const ids = new Set(images.map(({ id }) => id));
    for (const id of this.#trees.keys()) if (!ids.has(id)) this.#trees.delete(id);
    const kept = new Set([...ids, ...this.#merging.keys()].map(hexOf));
    for (const name of await namesIn(this.#folder)) {
      const hex = name.split('.', 1)[0] ?? '';
      if (!kept.has(hex)) await this.#options.worker.removeLayer({ dir: join(this.#folder, hex) });
    }
  }

  get #folder(): string {
    return join(this.#options.root, 'native');
  }

  #dirOf(id: string): string {
    return join(this.#folder, hexOf(id));
  }

  #treeOf({ id }: ImageRow): string {
    return join(this.#dirOf(id), 'fs');
  }
}

const hexOf = (id: string) => id.replace(/^\w+:/, '');
