import type { ContainerRow } from '../../../node/store/container.ts';
import { jobTable } from '../../engine/stage.ts';
import type { JobContext } from '../context.ts';
import { type ContainerStart, create, io, running, start } from '../stages/start-container.ts';

/**
 * The log is open before the process exists, so that nothing it writes is lost. `create` and `start` are `runc create`
 * and `runc start`.
 */
export const startContainer = jobTable<ContainerStart, ContainerRow, JobContext>('StartContainer', [
  { name: 'io', needs: [], ...io },
  { name: 'create', needs: ['io'], ...create },
  { name: 'start', needs: ['create'], ...start },
  { name: 'ready', needs: ['start'], ...running },
]);
