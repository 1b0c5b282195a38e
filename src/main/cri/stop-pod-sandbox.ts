import type { StopPodSandboxRequest, StopPodSandboxResponse } from '../../../proto/gen/cri.ts';
import type { Unary } from './call.ts';
import type { CriServices as Node } from './services.ts';

/** Idempotent: an unknown id is a pod that is stopped already. */
export const stopPodSandbox =
  (node: Node): Unary<StopPodSandboxRequest, StopPodSandboxResponse> =>
  async ({ podSandboxId }, call) => {
    const row = node.store.sandboxes.find(podSandboxId);
    if (row) await node.pods.stop(row.id, call);
    return {};
  };
