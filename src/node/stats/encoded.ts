import { ListPodSandboxMetricsResponse, type PodSandboxMetrics } from '../../../proto/gen/cri.ts';
import { breather } from '../../workers/stats/breathe.ts';

/**
 * A ListPodSandboxMetricsResponse as bytes, made in slices: the answer for 200 pods is 5 MB, and encoding it in one go holds the
 * thread for a tenth of a second. Encoded messages of one type may simply follow each other (protobuf merges repeated fields).
 */
export async function encodeMetrics(pods: AsyncIterable<PodSandboxMetrics>): Promise<Buffer> {
  const breathe = breather();
  const parts: Uint8Array[] = [];
  for await (const pod of pods) {
    parts.push(ListPodSandboxMetricsResponse.encode({ podMetrics: [pod] }).finish());
    await breathe();
  }
  return Buffer.concat(parts);
}
