import { ListPodSandboxMetricsResponse, type PodSandboxMetrics } from '../../../proto/gen/cri.ts';
import { yielder } from '../../workers/yield.ts';

/**
 * A ListPodSandboxMetricsResponse as bytes, made in slices: the answer for 200 pods is 5 MB, and encoding it in one go holds the
 * thread for a tenth of a second. Encoded messages of one type may simply follow each other (protobuf merges repeated fields).
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

/** The service with ListPodSandboxMetrics taking the bytes of {@link encodeMetrics} for its response. */
export function withEncodedMetrics<T extends Service>(definition: T): T {
  const method = definition.listPodSandboxMetrics;
  if (!method) throw new Error('this service has no listPodSandboxMetrics');
  const responseSerialize = (response: unknown) =>
    Buffer.isBuffer(response) ? response : method.responseSerialize(response as never);
  return { ...definition, listPodSandboxMetrics: { ...method, responseSerialize } };
}
