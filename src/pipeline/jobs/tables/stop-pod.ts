import type { SandboxRow } from '../../../node/store/sandbox.ts';
import { jobTable } from '../../engine/stage.ts';
import type { JobContext } from '../context.ts';
import { endShim, kill, type PodStop, releaseNetns, releaseNetwork, stopped } from '../stages/stop-pod.ts';

/**
 * A pod's end. Its processes and its network end side by side: DEL needs only the namespace, which is removed after it.
 * What a removal still needs (snapshot, files, row) stays.
 */
export const stopPod = jobTable<PodStop, SandboxRow, JobContext>('StopPodSandbox', [
  { name: 'kill', needs: [], ...kill },
  { name: 'shim', needs: ['kill'], ...endShim },
  { name: 'network', needs: [], ...releaseNetwork },
  { name: 'netns', needs: ['network'], ...releaseNetns },
  { name: 'ready', needs: ['shim', 'netns'], ...stopped },
]);
