import type { ContainerRow } from '../../../node/store/container.ts';
import { jobTable } from '../../engine/stage.ts';
import type { JobContext } from '../context.ts';
import { type ContainerStop, kill } from '../stages/stop-container.ts';

/**
 * Stop signal, grace, SIGKILL. What follows an end (draining the log, deleting the task) is in exits.ts, whatever
 * caused the end.
 */
export const stopContainer = jobTable<ContainerStop, ContainerRow, JobContext>('StopContainer', [
  { name: 'kill', needs: [], ...kill },
]);
