import type { SandboxRow } from '../../../node/store/rows.ts';
import { jobTable } from '../../engine/stage.ts';
import { endShim, killContainers, releaseNetns, releaseNetwork, stopped, type Teardown } from '../stages/teardown.ts';

/**
 * A pod's end. Its processes and its network go side by side: DEL needs no more than the namespace, which goes after it.
 * What a removal still needs (snapshot, files, record) stays.
 */
export const stopPod = jobTable<Teardown, SandboxRow>('StopPodSandbox', [
  { name: 'kill', needs: [], pool: 'main', run: killContainers },
  { name: 'shim', needs: ['kill'], pool: 'main', run: endShim },
  { name: 'network', needs: [], pool: 'net', run: releaseNetwork },
  { name: 'netns', needs: ['network'], pool: 'net', run: releaseNetns },
  { name: 'ready', needs: ['shim', 'netns'], pool: 'main', run: stopped },
]);
