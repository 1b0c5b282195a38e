import type {
  ListMetricDescriptorsRequest,
  ListMetricDescriptorsResponse,
  ListPodSandboxMetricsRequest,
  ListPodSandboxMetricsResponse,
  StreamPodSandboxMetricsRequest,
  StreamPodSandboxMetricsResponse,
} from '../../../proto/gen/cri.ts';
import type { Node } from '../../pipeline/node.ts';
import { metricDescriptors } from '../stats/metrics.ts';
import type { ServerStream, Unary } from './call.ts';
import { podSubject } from './stats-subjects.ts';

export const listMetricDescriptors = (): Unary<ListMetricDescriptorsRequest, ListMetricDescriptorsResponse> => () => ({
  descriptors: metricDescriptors(),
});

export const listPodSandboxMetrics =
  (node: Node): Unary<ListPodSandboxMetricsRequest, ListPodSandboxMetricsResponse> =>
  async () => ({ podMetrics: await Array.fromAsync(node.stats.metrics(readyPods(node))) });

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
