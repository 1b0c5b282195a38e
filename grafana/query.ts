/**
 * PromQL for the dashboards, made from the metric table, so that a name or a label that does not exist is a type error. Every
 * query takes the dashboard's job and instance, and rates use $__rate_interval.
 */
import { type KeyOf, METRICS, type MetricDefinition, type MetricKey } from '../src/node/observe/table.ts';

type LabelOf<K extends MetricKey> = keyof (typeof METRICS)[K]['labels'] & string;

/** Label matchers: a value, or the text of a matcher such as `=~"a|b"`. */
export type Match<K extends MetricKey> = Partial<Record<LabelOf<K>, string>>;

/**
 * Our label `job` (which CRI call) meets the label `job` that Prometheus gives to every target, and Prometheus renames ours
 * (honor_labels is off unless someone turns it on).
 */
export const labelName = (label: string): string => (label === 'job' ? 'exported_job' : label);

/** `{{label}}`, as a legend writes it. */
export const legend = (label: string): string => `{{${labelName(label)}}}`;

function selector(key: MetricKey, match: Record<string, string | undefined>, suffix = ''): string {
  const matchers = ['job=~"$job"', 'instance=~"$instance"'];
  for (const [label, value] of Object.entries(match)) {
    if (value !== undefined) matchers.push(`${labelName(label)}${/^(=|!)/.test(value) ? value : `="${value}"`}`);
  }
  return `${METRICS[key].name}${suffix}{${matchers.join(',')}}`;
}

const grouped = (aggregation: string, by: readonly string[], of: string): string =>
  by.length === 0 ? `${aggregation}(${of})` : `${aggregation} by (${by.map(labelName).join(', ')}) (${of})`;

/** Now: a gauge, summed over what is not in `by`. */
export function gauge<K extends KeyOf<'gauge'>>(key: K, by: readonly LabelOf<K>[] = [], match: Match<K> = {}): string {
  return grouped('sum', by, selector(key, match));
}

/** The same for each node. */
export function gaugePerNode<K extends KeyOf<'gauge'>>(
  key: K,
  by: readonly LabelOf<K>[] = [],
  match: Match<K> = {},
): string {
  return grouped('max', ['instance', ...by], ofSluice(key, selector(key, match)));
}

/** Events a second of a counter, for each node. */
export function ratePerNode<K extends KeyOf<'counter'>>(key: K): string {
  return grouped('sum', ['instance'], ofSluice(key, `rate(${selector(key, {})}[$__rate_interval])`));
}

/** Metrics that every exporter has (process_*): those of Sluice's targets alone, also while "All" jobs are chosen. */
function ofSluice(key: MetricKey, expr: string): string {
  if (!('common' in METRICS[key])) return expr;
  return `${expr} * on (job, instance) group_left () max by (job, instance) (${selector('buildInfo', {})})`;
}

/** Events a second: a counter, or the observations of a histogram. */
export function rate<K extends KeyOf<'counter' | 'histogram'>>(
  key: K,
  by: readonly LabelOf<K>[] = [],
  match: Match<K> = {},
): string {
  return grouped('sum', by, `rate(${selector(key, match, suffix(key, '_count'))}[$__rate_interval])`);
}

/** Events in the interval that one point stands for. */
export function increase<K extends KeyOf<'counter' | 'histogram'>>(
  key: K,
  by: readonly LabelOf<K>[] = [],
  match: Match<K> = {},
): string {
  return grouped('sum', by, `increase(${selector(key, match, suffix(key, '_count'))}[$__rate_interval])`);
}

/** A quantile of a histogram, for each combination of `by`. */
export function quantile<K extends KeyOf<'histogram'>>(
  q: number,
  key: K,
  by: readonly LabelOf<K>[] = [],
  match: Match<K> = {},
): string {
  const buckets = grouped('sum', ['le', ...by], `rate(${selector(key, match, '_bucket')}[$__rate_interval])`);
  return `histogram_quantile(${q}, ${buckets})`;
}

/** The mean of a histogram, for each combination of `by`. */
export function mean<K extends KeyOf<'histogram'>>(
  key: K,
  by: readonly LabelOf<K>[] = [],
  match: Match<K> = {},
): string {
  const part = (suffix: string) => grouped('sum', by, `rate(${selector(key, match, suffix)}[$__rate_interval])`);
  return `${part('_sum')} / ${part('_count')}`;
}

/** Seconds of work in each second: how many are busy on average. */
export function busy<K extends KeyOf<'histogram'>>(
  key: K,
  by: readonly LabelOf<K>[] = [],
  match: Match<K> = {},
): string {
  return grouped('sum', by, `rate(${selector(key, match, '_sum')}[$__rate_interval])`);
}

/** The buckets of a histogram, for a heat map. */
export function buckets<K extends KeyOf<'histogram'>>(key: K, match: Match<K> = {}): string {
  return `sum by (le) (increase(${selector(key, match, '_bucket')}[$__rate_interval]))`;
}

const suffix = (key: MetricKey, histogram: string): string =>
  (METRICS[key] as MetricDefinition).type === 'histogram' ? histogram : '';
