/**
 * Renders metrics in Prometheus' text format and in OpenMetrics. prom-client's own renderer cannot serve both: its
 * OpenMetrics mode is a state of the registry that renames the counters permanently. It also does not write `# UNIT`.
 * Sources: Prometheus text format 0.0.4; OpenMetrics 1.0.0 (github.com/OpenObservability/OpenMetrics).
 */
export const CONTENT_TYPES = {
  prometheus: 'text/plain; version=0.0.4; charset=utf-8',
  openmetrics: 'application/openmetrics-text; version=1.0.0; charset=utf-8',
} as const;

export type Format = keyof typeof CONTENT_TYPES;

const UNITS = ['seconds', 'bytes', 'ratio'];

interface Value {
  value: number;
  metricName?: string;
  labels: Record<string, string | number>;
  sharedLabels?: Record<string, string | number>;
  exemplar?: { labelSet: Record<string, string>; value: number; timestamp: number } | null;
}

interface Family {
  name: string;
  help: string;
  type: string;
  values: Value[];
}

/** Renders prom-client metrics whose values are up to date. */
export async function render(metrics: Iterable<object>, format: Format): Promise<string> {
  const open = format === 'openmetrics';
  let text = '';
  for (const metric of metrics) {
    const raw = metric as { getForPromString?: () => Promise<Family>; get: () => Promise<Family> };
    const family = await (raw.getForPromString ? raw.getForPromString() : raw.get());
    const counter = family.type === 'counter';
    const name = open && counter ? family.name.replace(/_total$/, '') : family.name;
    text += `# HELP ${name} ${escapeHelp(family.help, open)}\n# TYPE ${name} ${family.type}\n`;
    const unit = UNITS.find((one) => name.endsWith(`_${one}`));
    if (open && unit) text += `# UNIT ${name} ${unit}\n`;
    for (const value of family.values) {
      const line = value.metricName ?? (open && counter ? `${name}_total` : name);
      text += `${line}${labelText(value, open)} ${number(value.value)}`;
      if (open && value.exemplar) text += exemplarText(value.exemplar);
      text += '\n';
    }
  }
  return open ? `${text}# EOF\n` : text;
}

/**
 * Rendered label sets; prom-client keeps the same object for a series, and shares one among the buckets of a histogram.
 */
const rendered = new WeakMap<object, string>();

/** The label set of one series, with braces; "" without labels. */
function labelText({ labels, sharedLabels, value: _ }: Value, open: boolean): string {
  let fixed = '';
  const base = sharedLabels ?? labels;
  const known = rendered.get(base);
  if (known !== undefined) fixed = known;
  else {
    fixed = joinLabels(base);
    rendered.set(base, fixed);
  }
  if (sharedLabels && labels.le !== undefined) {
    // OpenMetrics requires a float: 1.0, not 1.
    const le = open && Number.isInteger(labels.le) ? `${labels.le}.0` : labels.le;
    fixed += `${fixed === '' ? '' : ','}le="${le}"`;
  }
  return fixed === '' ? '' : `{${fixed}}`;
}

function joinLabels(labels: Record<string, string | number>): string {
  return Object.entries(labels)
    .map(([name, value]) => `${name}="${escapeValue(String(value))}"`)
    .join(',');
}

function exemplarText({ labelSet, value, timestamp }: NonNullable<Value['exemplar']>): string {
  return ` # {${joinLabels(labelSet)}} ${number(value)} ${timestamp}`;
}

function number(value: number): string {
  if (value === Number.POSITIVE_INFINITY) return '+Inf';
  if (value === Number.NEGATIVE_INFINITY) return '-Inf';
  return Number.isNaN(value) ? 'NaN' : String(value);
}

const escapeValue = (text: string) => text.replace(/[\\"\n]/g, (char) => (char === '\n' ? '\\n' : `\\${char}`));

/** Prometheus' text format does not escape quotes in help texts; OpenMetrics does. */
const escapeHelp = (text: string, open: boolean) =>
  open ? escapeValue(text) : text.replace(/[\\\n]/g, (char) => (char === '\n' ? '\\n' : '\\\\'));
