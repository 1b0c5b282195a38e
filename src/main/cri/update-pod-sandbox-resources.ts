import type { UpdatePodSandboxResourcesRequest, UpdatePodSandboxResourcesResponse } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import type { Unary } from './call.ts';
import type { CriServices as Node } from './services.ts';

/** Kubelet has resized the pod's cgroup, which is its own; what remains is to remember it. */
export const updatePodSandboxResources =
  (node: Node): Unary<UpdatePodSandboxResourcesRequest, UpdatePodSandboxResourcesResponse> =>
  ({ podSandboxId, overhead, resources }) => {
    const row = node.store.sandboxes.find(podSandboxId);
    if (!row) throw new SluiceError('SANDBOX_NOT_FOUND', `no pod sandbox has the id "${podSandboxId}"`);
    if (row.state !== 'ready') throw new SluiceError('NOT_READY', `pod ${row.id} is not ready`);
    const linux = row.config.linux ?? {
      cgroupParent: '',
      securityContext: undefined,
      sysctls: {},
      overhead: undefined,
      resources: undefined,
    };
    row.config = {
      ...row.config,
      linux: { ...linux, overhead: overhead ?? linux.overhead, resources: resources ?? linux.resources },
    };
    node.store.sandboxes.put(row);
    return {};
  };
