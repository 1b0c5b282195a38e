/**
 * Builds PromQL for the dashboards from the table of metrics, so that a wrong name or label is a type error. Every
 * query selects the dashboard's job and instance, and rates use $__rate_interval.
 */
import { type KeyOf, METRICS, type MetricDefinition, type MetricKey } from '../src/node/observe/table.ts';

type LabelOf<K extends MetricKey> = keyof (typeof METRICS)[K]['labels'] & string;

/** Label matchers by label: a value, or an operator and a value, such as `=~"a|b"`. */
type Match<K extends MetricKey> = Partial<Record<LabelOf<K>, string>>;

/**
 * Name under which Prometheus stores a label: it adds its own label `job` to every target and renames Sluice's `job`
 * (the CRI call) to `exported_job`, unless honor_labels is on.
 */
export const labelName = (label: string): string => (label === 'job' ? 'exported_job' : label);

/** `{{label}}`, the placeholder in a legend. */
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

/** A gauge, summed over all labels that are not in `by`. */
export function gauge<K extends KeyOf<'gauge'>>(key: K, by: readonly LabelOf<K>[] = [], match: Match<K> = {}): string {
  return grouped('sum', by, selector(key, match));
}

/** A gauge for each node: the maximum over all labels that are not in `by`. */
export function gaugePerNode<K extends KeyOf<'gauge'>>(
  key: K,
  by: readonly LabelOf<K>[] = [],
  match: Match<K> = {},
): string {
  return grouped('max', ['instance', ...by], ofSluice(key, selector(key, match)));
}

/** Rate of a counter for each node, in events per second. */
export function ratePerNode<K extends KeyOf<'counter'>>(key: K): string {
  return grouped('sum', ['instance'], ofSluice(key, `rate(${selector(key, {})}[$__rate_interval])`));
}

/**
 * Restricts metrics that all exporters have (process_*) to Sluice's targets, which matters when "All" jobs are
 * selected.
 */
function ofSluice(key: MetricKey, expr: string): string {
  if (!('common' in METRICS[key])) return expr;
  return `${expr} * on (job, instance) group_left () max by (job, instance) (${selector('buildInfo', {})})`;
}

/** Rate of a counter, or of the observations of a histogram, in events per second. */
export function rate<K extends KeyOf<'counter' | 'histogram'>>(
  key: K,
  by: readonly LabelOf<K>[] = [],
  match: Match<K> = {},
): string {
  return grouped('sum', by, `rate(${selector(key, match, suffix(key, '_count'))}[$__rate_interval])`);
}

/** Increase of a counter, or of the number of observations of a histogram, in the interval of one point. */
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

/** Seconds of work per second, from a histogram of durations: the average number at work. */
export function busy<K extends KeyOf<'histogram'>>(
  key: K,
  by: readonly LabelOf<K>[] = [],
  match: Match<K> = {},
): string {
  return grouped('sum', by, `rate(${selector(key, match, '_sum')}[$__rate_interval])`);
}

/** Increase of the buckets of a histogram, for a heat map. */
export function buckets<K extends KeyOf<'histogram'>>(key: K, match: Match<K> = {}): string {
  return `sum by (le) (increase(${selector(key, match, '_bucket')}[$__rate_interval]))`;
}

const suffix = (key: MetricKey, histogram: string): string =>
  (METRICS[key] as MetricDefinition).type === 'histogram' ? histogram : '';
