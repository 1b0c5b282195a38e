import type { ContainerRow } from '../../../node/store/rows.ts';
import { jobTable } from '../../engine/stage.ts';
import type { ContainerStart } from '../creation.ts';
import { create, io, running, start } from '../stages/start-container.ts';

/** The log before the process: nothing it writes may be lost. `create` and `start` are the shim's `runc create` and `runc start`. */
export const startContainer = jobTable<ContainerStart, ContainerRow>('StartContainer', [
  { name: 'io', needs: [], pool: 'stdio', ...io },
  { name: 'create', needs: ['io'], pool: 'main', ...create },
  { name: 'start', needs: ['create'], pool: 'main', ...start },
  { name: 'ready', needs: ['start'], pool: 'main', ...running },
]);
