import type { CreateContainerRequest, CreateContainerResponse } from '../../../proto/gen/cri.ts';
import type { Unary } from './call.ts';
import type { CriServices as Node } from './services.ts';

export const createContainer =
  (node: Node): Unary<CreateContainerRequest, CreateContainerResponse> =>
  async (request, call) => ({ containerId: await node.containers.create(request, call) });
