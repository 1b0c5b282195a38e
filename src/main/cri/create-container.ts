import type { CreateContainerRequest, CreateContainerResponse } from '../../../proto/gen/cri.ts';
import type { Node } from '../../pipeline/jobs/context.ts';
import type { Unary } from './call.ts';

export const createContainer =
  (node: Node): Unary<CreateContainerRequest, CreateContainerResponse> =>
  async (request, call) => ({ containerId: await node.containers.create(request, call) });
