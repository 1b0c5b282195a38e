import { jobTable } from '../../engine/stage.ts';
import type { JobContext } from '../context.ts';
import { commit, layers, type PullRow, type PullState, resolve } from '../stages/pull-image.ts';

/** An image pull. A layer goes from the registry to its folder in one pass, so there is no stage between the two. */
export const pullImage = jobTable<PullState, PullRow, JobContext>('PullImage', [
  { name: 'resolve', needs: [], ...resolve },
  { name: 'layers', needs: ['resolve'], ...layers },
  { name: 'commit', needs: ['layers'], ...commit },
]);
