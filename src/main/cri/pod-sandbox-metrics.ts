import type {
  ListMetricDescriptorsRequest,
  ListMetricDescriptorsResponse,
  ListPodSandboxMetricsRequest,
  ListPodSandboxMetricsResponse,
  StreamPodSandboxMetricsRequest,
  StreamPodSandboxMetricsResponse,
} from '../../../proto/gen/cri.ts';
import { encodeMetrics } from '../../node/stats/encoded.ts';
import { metricDescriptors } from '../../node/stats/metrics.ts';
import type { ServerStream, Unary } from './call.ts';
import { Encoded } from './service.ts';
import type { CriServices as Node } from './services.ts';
import { podSubject } from './stats-subjects.ts';

export const listMetricDescriptors = (): Unary<ListMetricDescriptorsRequest, ListMetricDescriptorsResponse> => () => ({
  descriptors: metricDescriptors(),
});

/** Encoded pod by pod: megabytes at once would block the main thread for tens of milliseconds. */
export const listPodSandboxMetrics =
  (node: Node): Unary<ListPodSandboxMetricsRequest, Encoded<ListPodSandboxMetricsResponse>> =>
  async () =>
    new Encoded(await encodeMetrics(node.stats.metrics(readyPods(node))));

export const streamPodSandboxMetrics = (
  node: Node,
): ServerStream<StreamPodSandboxMetricsRequest, StreamPodSandboxMetricsResponse> =>
  async function* () {
    for await (const metrics of node.stats.metrics(readyPods(node))) yield { podSandboxMetrics: [metrics] };
  };

function readyPods(node: Node) {
  return [...node.store.sandboxes.values()]
    .filter(({ state }) => state === 'ready')
    .map((row) => podSubject(node, row));
}
