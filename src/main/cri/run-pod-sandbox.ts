import type { RunPodSandboxRequest, RunPodSandboxResponse } from '../../../proto/gen/cri.ts';
import type { Node } from '../../pipeline/jobs/context.ts';
import type { Unary } from './call.ts';

export const runPodSandbox =
  (node: Node): Unary<RunPodSandboxRequest, RunPodSandboxResponse> =>
  async (request, call) => ({ podSandboxId: await node.pods.run(request, call) });
