import { takeDown } from '../../engine/stage.ts';
import { runPod } from './run-pod.ts';

/** Takes back everything a launch made, in the opposite order, by the functions that undo a failed launch. */
export const removePod = takeDown('RemovePodSandbox', runPod, { reserve: 'forget', create: 'kill' });
