/**
 * The `image` pool: a thread takes one layer at a time from the registry to the disk. The handlers that only read files
 * serve the shim pool too.
 */
import { fetchLayer } from './image/fetch-layer.ts';
import { installPause } from './image/install-pause.ts';
import { inheritAttributes, measure, removeLayer } from './image/layers.ts';
import { lookUpUser } from './image/look-up-user.ts';
import { practise } from './image/practise.ts';
import { readArchive } from './image/read-archive.ts';
import { readFileInLayers } from './image/read-file.ts';
import { exportLayer, writeArchive } from './image/write-archive.ts';
import { serve } from './serve.ts';

export const handlers = {
  /** Does nothing: the call makes the pool start a thread. */
  warm: () => {},
  practise,
  fetchLayer,
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
