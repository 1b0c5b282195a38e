import { jobTable } from '../../engine/stage.ts';
import { commit, layers, type PullRow, type PullState, resolve } from '../stages/pull-image.ts';

/** An image pull. A layer goes from the registry to its folder in one pass, so there is no stage between the two. */
export const pullImage = jobTable<PullState, PullRow>('PullImage', [
  { name: 'resolve', needs: [], pool: 'main', ...resolve },
  { name: 'layers', needs: ['resolve'], pool: 'image', ...layers },
  { name: 'commit', needs: ['layers'], pool: 'main', ...commit },
]);
