import {
  CgroupDriver,
  type RuntimeConfigRequest,
  type RuntimeConfigResponse,
  type UpdateRuntimeConfigRequest,
  type UpdateRuntimeConfigResponse,
} from '../../../proto/gen/cri.ts';
import type { Unary } from './call.ts';
import type { CriServices as Node } from './services.ts';

/** Which cgroup driver kubelet has to use, so that both manage one tree. */
export const runtimeConfig =
  (node: Node): Unary<RuntimeConfigRequest, RuntimeConfigResponse> =>
  () => ({
    linux: { cgroupDriver: node.host.cgroupDriver === 'systemd' ? CgroupDriver.SYSTEMD : CgroupDriver.CGROUPFS },
  });

/** The node's pod CIDR. CNI plugins get their ranges from their own configuration, so it is only noted. */
export const updateRuntimeConfig =
  (node: Node): Unary<UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse> =>
  ({ runtimeConfig: config }) => {
    node.log.info({ podCidr: config?.networkConfig?.podCidr ?? '' }, 'kubelet told the pod CIDR');
    return {};
  };
