import type { StopContainerRequest, StopContainerResponse } from '../../../proto/gen/cri.ts';
import type { Unary } from './call.ts';
import type { CriServices as Node } from './services.ts';

/** Idempotent: an unknown id is a container that is gone already. */
export const stopContainer =
  (node: Node): Unary<StopContainerRequest, StopContainerResponse> =>
  async ({ containerId, timeout }, call) => {
    const row = node.store.containers.find(containerId);
    if (row) await node.containers.stop(row.id, Math.max(0, Number(timeout)), call);
    return {};
  };
