import type { ContainerRow } from '../../../node/store/rows.ts';
import { jobTable } from '../../engine/stage.ts';
import type { ContainerStop } from '../creation.ts';
import { kill } from '../stages/stop-container.ts';

/** Stop signal, grace, SIGKILL. What follows an end (draining the log, deleting the task) is the monitor's, whoever caused it. */
export const stopContainer = jobTable<ContainerStop, ContainerRow>('StopContainer', [
  { name: 'kill', needs: [], pool: 'main', run: kill },
]);
