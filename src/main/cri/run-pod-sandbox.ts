import type { RunPodSandboxRequest, RunPodSandboxResponse } from '../../../proto/gen/cri.ts';
import type { Unary } from './call.ts';
import type { CriServices as Node } from './services.ts';

export const runPodSandbox =
  (node: Node): Unary<RunPodSandboxRequest, RunPodSandboxResponse> =>
  async (request, call) => ({ podSandboxId: await node.pods.run(request, call) });
