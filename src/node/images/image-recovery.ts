import { explain, SluiceError } from '../../errors.ts';
import type { Usage } from '../../workers/measure-tree.ts';
import type { Config } from '../config/config.ts';
import type { Log } from '../observe/log.ts';
import type { Table } from '../store/table.ts';
import type { BlobStore } from './blob-store.ts';
import type { ImageArchives } from './image-archives.ts';
import type { ImageNames } from './image-names.ts';
import type { LayerStore } from './layer-store.ts';
import { BUILT_IN_PAUSE, pauseImage } from './pause-image.ts';
import type { ImageRow, LayerRow } from './rows.ts';
import type { Snapshotter } from './snapshotters/snapshotter.ts';
import { layersOf } from './sweeper.ts';

export interface ImageRecoveryOptions {
  config: Pick<Config, 'images'>;
  images: Table<ImageRow>;
  /** The rows of {@link ImageRecoveryOptions.store}. */
  layers: Table<LayerRow>;
  store: LayerStore;
  names: ImageNames;
  snapshotter: Snapshotter;
  blobs: BlobStore;
  archives: ImageArchives;
  /** Ids of the images that containers and pods were made from. */
  usedImages: () => Promise<Set<string>>;
  installPause: (dir: string) => Promise<Usage>;
  log: Log;
}

/** Milliseconds until the built-in image is tried once more where the disk is full. */
const INSTALL_AGAIN_MS = 60_000;

/**
 * After a start: rows and folders are made to agree, and the built-in pause image is there. `keepUnknown`: layers
 * without a row stay, since containers that the store has lost may run from them. Throws CONFIG_INVALID.
 */
export async function recoverImages(
  options: ImageRecoveryOptions,
  { keepUnknown }: { keepUnknown: boolean },
): Promise<void> {
  const { images, layers, store, names, blobs, archives, log, config } = options;
  await checkSnapshotter(options);
  for (const row of [...images.values()]) {
    if (row.layers.every((id) => layers.get(id)?.ready && store.has(id))) continue;
    log.warn({ image: row.id, names: row.names }, 'layers of this image are gone; it must be pulled again');
    images.delete(row.id);
  }
  await store.recover(layersOf(images), { keepUnknown });
  // A row whose folder somebody removed.
  for (const row of [...images.values()]) {
    if (!row.layers.every((id) => store.has(id))) images.delete(row.id);
  }
  names.rebuild();
  await archives.clear();
  if (config.images.keep_blobs) await blobs.prepare();
  if (config.images.sandbox_image === '') await installPause(options);
}

/**
 * Layers in a proxy snapshotter and layers in folders are of no use to each other. Throws CONFIG_INVALID where
 * something runs from the others; else they are forgotten, and pulled again.
 */
async function checkSnapshotter({ layers, config, log, usedImages }: ImageRecoveryOptions): Promise<void> {
  const isProxy = config.images.snapshotter === 'proxy';
  const others = [...layers.values()].filter(({ ready, snapshot }) => ready && (snapshot !== undefined) !== isProxy);
  if (others.length === 0) return;
  if ((await usedImages()).size > 0) {
    const words = `images.snapshotter is "${config.images.snapshotter}" now, and pods or containers run from layers of another one: remove them first`;
    throw new SluiceError('CONFIG_INVALID', words);
  }
  log.warn(
    { snapshotter: config.images.snapshotter, layers: others.length },
    'layers of another snapshotter are dropped',
  );
  for (const { id } of others) layers.delete(id);
}

/** The pause image comes with the program: pods start on a node that reaches no registry. */
async function installPause(options: ImageRecoveryOptions): Promise<void> {
  const { images, store, names, snapshotter, log } = options;
  try {
    const { id, diffId, config, file } = pauseImage();
    const layer = await store.builtIn(diffId, options.installPause);
    const old = images.get(id);
    const row: ImageRow = { id, names: [], ...old, config, file, layers: [layer.id], size: layer.bytes };
    await snapshotter.adopt(row);
    names.give(row, [BUILT_IN_PAUSE]);
  } catch (cause) {
    // On a full disk, say. It must not keep the daemon from starting: the disk is freed by removing pods and images.
    log.error({ reason: explain(cause) }, 'the built-in pause image cannot be installed; trying on');
    setTimeout(() => void installPause(options), INSTALL_AGAIN_MS).unref();
  }
}
