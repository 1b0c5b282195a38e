import type { ContainerStatusRequest, ContainerStatusResponse } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import type { ContainerRow } from '../../node/store/container.ts';
import { noInfo, type Unary } from './call.ts';
import { toContainerStatus, visibleContainer } from './container-view.ts';
import { goJson } from './go-json.ts';
import type { CriServices as Node } from './services.ts';

export const containerStatus =
  (node: Node): Unary<ContainerStatusRequest, ContainerStatusResponse> =>
  async ({ containerId, verbose }) => {
    const row = node.containers.get(containerId);
    if (!visibleContainer(row))
      throw new SluiceError('CONTAINER_NOT_FOUND', `no container has the id "${containerId}"`);
    return {
      status: toContainerStatus(node, row),
      info: verbose ? { info: JSON.stringify(await inspect(node, row)) } : noInfo(),
    };
  };

/** The keys that users of `crictl inspect` know from containerd. */
async function inspect(node: Node, row: ContainerRow): Promise<object> {
  return {
    sandboxID: row.sandbox,
    pid: row.pid,
    removing: row.state === 'removing',
    snapshotKey: row.id,
    snapshotter: 'overlayfs',
    runtimeType: 'io.containerd.runc.v2',
    config: goJson(row.config),
    runtimeSpec: await node.specs.of(row),
  };
}
