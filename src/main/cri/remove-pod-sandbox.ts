import type { RemovePodSandboxRequest, RemovePodSandboxResponse } from '../../../proto/gen/cri.ts';
import type { Node } from '../../pipeline/jobs/context.ts';
import type { Unary } from './call.ts';

/** Idempotent: an unknown id is a pod that is removed already. */
export const removePodSandbox =
  (node: Node): Unary<RemovePodSandboxRequest, RemovePodSandboxResponse> =>
  async ({ podSandboxId }, call) => {
    const row = node.store.sandboxes.find(podSandboxId);
    if (row) await node.pods.remove(row.id, call);
    return {};
  };
