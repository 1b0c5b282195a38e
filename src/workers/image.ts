/** The `image` pool: one layer at a time from the registry to the disk, and the questions about layers that read files. */
import { fetchLayer } from './image/fetch-layer.ts';
import { installPause } from './image/install-pause.ts';
import { dressFolders, measure, removeLayer } from './image/layers.ts';
import { lookUpUser } from './image/look-up-user.ts';
import { readFileInLayers } from './image/read-file.ts';
import { serve } from './serve.ts';

export const handlers = {
  fetchLayer,
  dressFolders,
  readFileInLayers,
  lookUpUser,
  removeLayer,
  measure,
  installPause,
};

export default serve(handlers);
