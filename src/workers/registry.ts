/**
 * The `registry` pool: small requests to registries and token servers. Main does not send them because reading the
 * certificate authorities blocks a thread, and the image pool does not because its threads are busy with layers.
 */
import { ask } from './http/ask.ts';
import { serve } from './serve.ts';

export const handlers = {
  /** Does nothing: the call makes the pool start a thread. */
  warm: () => {},
  ask,
};

export default serve(handlers);
