import type { ContainerRow } from '../../main/store/rows.ts';
import type { ContainerStop } from '../creation.ts';
import { jobTable } from '../stage.ts';
import { kill } from '../steps/stop-container.ts';

/** Stop signal, grace, SIGKILL. What follows an end (draining the log, deleting the task) is the monitor's, whoever caused it. */
export const stopContainer = jobTable<ContainerStop, ContainerRow>('StopContainer', [
  { name: 'kill', needs: [], pool: 'main', run: kill },
]);
