import { takeDown } from '../../engine/stage.ts';
import { runPod } from './run-pod.ts';

/** Everything a launch made, taken back in the opposite order by the same functions that undo a failed one. */
export const removePod = takeDown('RemovePodSandbox', runPod, { reserve: 'forget' });
