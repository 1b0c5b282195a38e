import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { SluiceError } from '../../errors.ts';
import type { handlers } from '../../workers/image.ts';
import type { Pool } from '../threads/pool.ts';
import { type ExportedImage, type ExportOptions, exportImages } from './archive-export.ts';
import { type ArchivedImage, imagesIn } from './archive-import.ts';
import type { BlobStore } from './blob-store.ts';
import type { WantedLayer } from './layer-store.ts';
import type { Repository } from './registry.ts';
import type { ImageRow } from './rows.ts';

export interface ImageArchivesOptions {
  /** The daemon's root folder. */
  root: string;
  pool: Pool<typeof handlers>;
  blobs: BlobStore;
  layerFolder: (id: string) => string;
  /** Milliseconds for which a mount that may hang may give nothing; read anew each time. */
  idleMs: () => number;
  /** The layers are in folders of this daemon, and not in a proxy snapshotter. */
  hasLayers: boolean;
}

/** Archive files with images in them: OCI layouts and what `docker save` writes. */
export class ImageArchives {
  readonly #options: ImageArchivesOptions;
  readonly #scratch: string;

  constructor(options: ImageArchivesOptions) {
    this.#options = options;
    this.#scratch = join(options.root, 'tmp-images');
  }

  /** After a start: what a dead daemon was working on. */
  async clear(): Promise<void> {
    await rm(this.#scratch, { recursive: true, force: true });
  }

  /**
   * Calls `take` with each image of an archive and its layers, bottom first, which can be fetched until it has ended;
   * returns what it returns. `name` is for an image without any. Throws IMAGE_INVALID, INVALID_REQUEST, DISK_FULL.
   */
  async read<T>(
    path: string,
    name: string | undefined,
    take: (image: ArchivedImage, layers: WantedLayer[]) => Promise<T>,
  ): Promise<T[]> {
    const folder = join(this.#scratch, crypto.randomUUID());
    try {
      const archive = await this.#options.pool.call('readArchive', { path, folder, idleMs: this.#options.idleMs() });
      const taken: T[] = [];
      for (const archived of await imagesIn(archive, name)) {
        const { image, files } = archived;
        const layers = image.layers.map((blob, index) => ({
          blob,
          diffId: image.diffIds[index] ?? '',
          name: blob.name,
          repository: localLayer(files[index] ?? ''),
        }));
        taken.push(await take(archived, layers));
      }
      return taken;
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  }

  /** Writes images to a file (an OCI layout that docker reads too). Throws DISK_FULL, INVALID_REQUEST. */
  async write(rows: readonly ImageRow[], path: string, onLayer?: ExportOptions['onLayer']): Promise<ExportedImage[]> {
    const { pool, blobs, layerFolder, hasLayers } = this.#options;
    if (!hasLayers)
      throw new SluiceError('INVALID_REQUEST', 'images of a proxy snapshotter are not exported: it has their layers');
    const scratch = join(this.#scratch, crypto.randomUUID());
    await mkdir(scratch, { recursive: true, mode: 0o700 });
    return exportImages(rows, { pool, blobs, scratch, layerFolder, path, onLayer });
  }
}

/** Stands for a registry where a blob is a file on this machine. */
function localLayer(file: string): Pick<Repository, 'layer'> {
  const source = { url: pathToFileURL(file).href, headers: {}, authorizations: {}, tls: {}, dialTimeoutMs: 1000 };
  return { layer: (_, fetch) => fetch(source, async () => undefined) };
}
