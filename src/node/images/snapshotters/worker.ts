import type { Pools } from '../../threads/pools.ts';
import type { SnapshotWorker } from './snapshotter.ts';

/** The shim pool as snapshotters use it. */
export function snapshotWorker({ shim }: Pick<Pools, 'shim'>): SnapshotWorker {
  return {
    prepare: (input) => shim.call('prepareSnapshot', input),
    remove: (input) => shim.call('removeSnapshot', input),
    copy: (input) => shim.call('copySnapshot', input),
    merge: (input) => shim.call('mergeLayers', input),
    fill: (input) => shim.call('fillSnapshot', input),
    link: (input) => shim.call('linkSnapshot', input),
    removeLayer: (input) => shim.call('removeLayer', input),
  };
}
