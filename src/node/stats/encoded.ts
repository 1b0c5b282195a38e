import { ListPodSandboxMetricsResponse, type PodSandboxMetrics } from '../../../proto/gen/cri.ts';
import { yielder } from '../../workers/yield.ts';

/**
 * Encodes a ListPodSandboxMetricsResponse one pod at a time and yields to the event loop in between: the response for
 * 200 pods has 5 MB, and encoding it at once blocks the thread for 100 ms. Encoded messages of one type may be
 * concatenated, because protobuf merges repeated fields.
 */
export async function encodeMetrics(pods: AsyncIterable<PodSandboxMetrics>): Promise<Buffer> {
  const yieldThread = yielder();
  const parts: Uint8Array[] = [];
  for await (const pod of pods) {
    parts.push(ListPodSandboxMetricsResponse.encode({ podMetrics: [pod] }).finish());
    await yieldThread();
  }
  return Buffer.concat(parts);
}
