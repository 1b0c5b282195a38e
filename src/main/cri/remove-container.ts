import type { RemoveContainerRequest, RemoveContainerResponse } from '../../../proto/gen/cri.ts';
import type { Unary } from './call.ts';
import type { CriServices as Node } from './services.ts';

/** Idempotent: an unknown id is a container that is gone already. */
export const removeContainer =
  (node: Node): Unary<RemoveContainerRequest, RemoveContainerResponse> =>
  async ({ containerId }, call) => {
    const row = node.store.containers.find(containerId);
    if (row) await node.containers.remove(row.id, call);
    return {};
  };
