/**
 * The `image` pool: a thread takes one layer at a time from the registry to the disk, and helps others with theirs
 * while it has none. The handlers that only read files serve the shim pool too.
 */
import { workerData } from 'node:worker_threads';
import { type FetchedLayer, type FetchLayer, fetchLayer } from './image/fetch-layer.ts';
import { FileHelper } from './image/file-helper.ts';
import { FileQueue } from './image/file-queue.ts';
import { GiveWay } from './image/give-way.ts';
import { installPause } from './image/install-pause.ts';
import { inheritAttributes, measure, removeLayer } from './image/layers.ts';
import { lookUpUser } from './image/look-up-user.ts';
import { type Practise, practise } from './image/practise.ts';
import { readArchive } from './image/read-archive.ts';
import { readFileInLayers } from './image/read-file.ts';
import { exportLayer, writeArchive } from './image/write-archive.ts';
import { serve } from './serve.ts';

/** What its threads find in `workerData`. */
export interface ImageWorkerData {
  /** Of their {@link FileQueue}. */
  memory: SharedArrayBuffer;
  /** Of their {@link GiveWay}. */
  giveWay: SharedArrayBuffer;
}

const data = workerData as ImageWorkerData | null;
/** Absent where the handlers are called without a pool. */
const helper = data ? new FileHelper(new FileQueue(data.memory), new GiveWay(data.giveWay)) : undefined;
void helper?.help(); // never ends; should it throw, the thread does, and the pool replaces it

export const handlers = {
  /** Does nothing: the call makes the pool start a thread. */
  warm: () => {},
  async practise(input: Practise): Promise<void> {
    using _ = helper?.atWork();
    await practise(input);
  },
  async fetchLayer(layer: FetchLayer): Promise<FetchedLayer> {
    using _ = helper?.atWork();
    return await fetchLayer(layer, helper);
  },
  inheritAttributes,
  readFileInLayers,
  lookUpUser,
  removeLayer,
  measure,
  installPause,
  readArchive,
  exportLayer,
  writeArchive,
};

export default serve(handlers);
