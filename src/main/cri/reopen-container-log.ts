import type { ReopenContainerLogRequest, ReopenContainerLogResponse } from '../../../proto/gen/cri.ts';
import type { Unary } from './call.ts';
import type { CriServices as Node } from './services.ts';

/** After kubelet has renamed the file. A container that does not run has no log to reopen, and none may be made. */
export const reopenContainerLog =
  (node: Node): Unary<ReopenContainerLogRequest, ReopenContainerLogResponse> =>
  async ({ containerId }) => {
    const { row } = await node.containers.running(containerId);
    await node.stdio.reopenLog(row.id);
    return {};
  };
