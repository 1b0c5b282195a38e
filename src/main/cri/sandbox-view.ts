import { type PodSandbox, PodSandboxState, type PodSandboxStatus } from '../../../proto/gen/cri.ts';
import type { SandboxRow } from '../../node/store/sandbox.ts';

/**
 * Is the pod there for clients? One that is still being launched has no id anybody knows, and one whose failed launch is being
 * cleaned up is gone as far as they are concerned; a removal that kubelet asked for stays listed until it is through.
 */
export function visible(row: SandboxRow): boolean {
  return row.state !== 'creating' && row.cleanup === undefined;
}

export function sandboxState(row: SandboxRow): PodSandboxState {
  return row.state === 'ready' ? PodSandboxState.SANDBOX_READY : PodSandboxState.SANDBOX_NOTREADY;
}

export function toPodSandbox(row: SandboxRow): PodSandbox {
  return {
    id: row.id,
    metadata: row.config.metadata,
    state: sandboxState(row),
    createdAt: row.createdAt,
    labels: row.config.labels,
    annotations: row.config.annotations,
    runtimeHandler: row.runtimeHandler,
  };
}

/** `network` is there for host-network pods too, with an empty ip: kubelet fills in the node's. */
export function toPodSandboxStatus(row: SandboxRow): PodSandboxStatus {
  const [ip = '', ...others] = row.state === 'stopped' ? [] : row.addresses;
  return {
    ...toPodSandbox(row),
    network: { ip, additionalIps: others.map((address) => ({ ip: address })) },
    linux: { namespaces: { options: row.config.linux?.securityContext?.namespaceOptions } },
  };
}
