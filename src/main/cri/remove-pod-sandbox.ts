import type { RemovePodSandboxRequest, RemovePodSandboxResponse } from '../../../proto/gen/cri.ts';
import type { Unary } from './call.ts';
import type { CriServices as Node } from './services.ts';

/** Idempotent: an unknown id is a pod that is removed already. */
export const removePodSandbox =
  (node: Node): Unary<RemovePodSandboxRequest, RemovePodSandboxResponse> =>
  async ({ podSandboxId }, call) => {
    const row = node.store.sandboxes.find(podSandboxId);
    if (row) await node.pods.remove(row.id, call);
    return {};
  };
