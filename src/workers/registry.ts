/**
 * The `registry` pool: small questions to registries and token servers. Not main, which would stand still while authorities are read;
 * not the image pool, whose threads are busy with layers.
 */
import { ask } from './image/ask.ts';
import { serve } from './serve.ts';

export const handlers = { ask };

export default serve(handlers);
