import { type ContainerMetrics, type Metric, type MetricDescriptor, MetricType } from '../../../proto/gen/cri.ts';
import type { InterfaceReading } from '../../workers/stats/network.ts';
import { BASE_LABELS, CONTAINER_METRICS, type ContainerFacts, type MetricRule, POD_METRICS } from './metric-table.ts';
import type { ContainerSubject, PodSubject } from './subjects.ts';

/** The response of ListMetricDescriptors; label_keys have the order of every metric's label_values. */
export function metricDescriptors(): MetricDescriptor[] {
  return Object.entries({ ...CONTAINER_METRICS, ...POD_METRICS })
    .map(([name, { help, labels }]) => ({ name, help, labelKeys: [...BASE_LABELS, ...labels] }))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** The metrics of one container. */
export function containerMetrics(
  pod: PodSubject,
  container: ContainerSubject,
  facts: ContainerFacts,
): ContainerMetrics {
  const base = [...podLabels(pod), container.attributes.metadata?.name ?? '', container.id, container.image];
  return { containerId: container.id, metrics: apply(CONTAINER_METRICS, facts, base) };
}

/** The pod's own metrics, with the pod's id and without container and image. */
export function podMetrics(pod: PodSubject, interfaces: InterfaceReading[]): Metric[] {
  return apply(POD_METRICS, interfaces, [...podLabels(pod), '', pod.id, '']);
}

const podLabels = ({ attributes: { metadata } }: PodSubject) => [metadata?.name ?? '', metadata?.namespace ?? ''];

function apply<Facts>(rules: Record<string, MetricRule<Facts>>, facts: Facts, base: string[]): Metric[] {
  const metrics: Metric[] = [];
  for (const [name, { type, values }] of Object.entries(rules)) {
    for (const { labels, value, timestamp } of values(facts)) {
      metrics.push({
        name,
        // CRI: 0 for a live value, the time of reading for a cached one.
        timestamp: timestamp ?? 0n,
        metricType: type === 'counter' ? MetricType.COUNTER : MetricType.GAUGE,
        labelValues: labels.length === 0 ? base : [...base, ...labels],
        value: { value },
      });
    }
  }
  return metrics;
}
