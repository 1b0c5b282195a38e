import type { UpdateContainerResourcesRequest, UpdateContainerResourcesResponse } from '../../../proto/gen/cri.ts';
import type { Unary } from './call.ts';
import type { CriServices as Node } from './services.ts';

/** In-place resize. A container that has not started yet gets the limits when it does. */
export const updateContainerResources =
  (node: Node): Unary<UpdateContainerResourcesRequest, UpdateContainerResourcesResponse> =>
  async ({ containerId, linux, annotations }) => {
    await node.containers.update(containerId, linux, annotations);
    return {};
  };
