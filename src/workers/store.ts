/** The `store` thread: what waits for the disk on behalf of the store, and must hold up nobody else. */
import { serve } from './serve.ts';
import { takeBallast } from './store/ballast.ts';
import { checkpoint } from './store/checkpoint.ts';
import { syncCopies, writeCopies } from './store/copies.ts';

export const handlers = {
  checkpoint,
  takeBallast: ({ path }: { path: string }) => takeBallast(path),
  writeCopies,
  syncCopies,
};

export default serve(handlers);
