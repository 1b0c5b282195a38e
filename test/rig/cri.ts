/** The client that tests, the load generator and the demo ask a daemon with, and the end of all its pods. */
import type { Cri } from '../../src/main/cri/client.ts';

export { type CallOptions, type Calls, type Cri, connectCri, type Streams } from '../../src/main/cri/client.ts';

/** Stops and removes the pods, all unless `ids` are given, `parallel` at a time. */
export async function removePods(cri: Cri, ids?: string[], parallel = 8): Promise<void> {
  const left = ids ? [...ids] : (await cri.listPodSandbox()).items.map((pod) => pod.id);
  const one = async () => {
    for (let id = left.pop(); id !== undefined; id = left.pop()) {
      await cri.stopPodSandbox({ podSandboxId: id }, { timeoutMs: 120_000 });
      await cri.removePodSandbox({ podSandboxId: id }, { timeoutMs: 120_000 });
    }
  };
  await Promise.all(Array.from({ length: parallel }, one));
}
