import type { StartContainerRequest, StartContainerResponse } from '../../../proto/gen/cri.ts';
import type { Unary } from './call.ts';
import type { CriServices as Node } from './services.ts';

export const startContainer =
  (node: Node): Unary<StartContainerRequest, StartContainerResponse> =>
  async ({ containerId }, call) => {
    await node.containers.start(containerId, call);
    return {};
  };
