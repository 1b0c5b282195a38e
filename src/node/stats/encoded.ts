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

/** A service by method name, as far as this file uses it; the ServiceDefinition of @grpc/grpc-js has this shape. */
type Service = Record<string, { responseSerialize: (response: never) => Buffer }>;

/** The service with a ListPodSandboxMetrics that accepts the bytes of {@link encodeMetrics} as its response. */
export function withEncodedMetrics<T extends Service>(definition: T): T {
  const method = definition.listPodSandboxMetrics;
  if (!method) throw new Error('this service has no method listPodSandboxMetrics');
  const responseSerialize = (response: unknown) =>
    Buffer.isBuffer(response) ? response : method.responseSerialize(response as never);
  return { ...definition, listPodSandboxMetrics: { ...method, responseSerialize } };
}
