/** The `image` pool: everything that is said to registries, and layers from the first byte to the folder. */
import { ask } from './image/ask.ts';
import { fetchLayer } from './image/fetch-layer.ts';
import { inheritFolders } from './image/inherit.ts';
import { type ReadFileInLayers, readFileInLayers } from './image/read-file.ts';
import { removeLayers } from './image/remove-layers.ts';
import { type UnpackJob, unpack } from './image/unpack.ts';
import { serve } from './serve.ts';
import { readDisk } from './stats/disk.ts';

export const handlers = {
  ask,
  fetchLayer,
  inheritFolders,
  removeLayers,
  /** A layer that came with the program: its bytes are here already. */
  unpackBytes: ({ bytes, ...job }: UnpackJob & { bytes: Uint8Array }) => unpack(once(Buffer.from(bytes)), job),
  /** Several files of one image, as text; undefined for those it does not have. */
  readFiles: ({ paths, ...from }: Omit<ReadFileInLayers, 'path'> & { paths: string[] }) =>
    paths.map((path) => readFileInLayers({ ...from, path })?.toString()),
  /** What a folder takes on disk; undefined when it is gone. */
  diskUsage: ({ folder }: { folder: string }) => readDisk(folder),
};

async function* once(bytes: Buffer): AsyncGenerator<Buffer> {
  yield bytes;
}

export default serve(handlers);
