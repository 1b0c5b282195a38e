/**
 * The tables of the pages below docs/ that come from tables in the code. In a page they stand between `<!-- name -->`
 * and `<!-- /name -->`; the prose around them is written by hand.
 */
import { readFileSync } from 'node:fs';
import { ERRORS, GRPC } from '../src/errors.ts';
import { type Command, EXIT, optionsOf } from '../src/main/cli/command.ts';
import { COMMANDS } from '../src/main/cli/commands.ts';
import { syntax } from '../src/main/cli/program.ts';
import { stageLimit } from '../src/node/config/limits.ts';
import { printDocs } from '../src/node/config/print.ts';
import { METRICS, type MetricDefinition } from '../src/node/observe/table.ts';
import { JOB_TABLES } from '../src/pipeline/jobs/tables/all.ts';
import { ADMIT, STAGE_NAMES, STAGES } from '../src/stages.ts';

const GROUPS: Record<MetricDefinition['group'], string> = {
  jobs: 'Jobs and pods',
  admission: 'Admission',
  stages: 'Stages',
  network: 'Network',
  shims: 'Shims and processes',
  images: 'Images',
  containers: 'Containers',
  reliability: 'Reliability',
  daemon: 'The daemon',
  process: 'The process (names that every exporter has)',
};

function table(head: string[], rows: string[][]): string {
  const line = (cells: string[]) => `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}

const code = (text: string) => `\`${text}\``;

function labels(definition: MetricDefinition): string {
  const one = ([name, values]: [string, readonly string[]]) => {
    if (name === 'job') return `${code('job')} (CRI call)`;
    if (name === 'stage') return `${code('stage')} ([stages](stages.md))`;
    if (name === 'method' && values.length > 20) return `${code('method')} (RPC)`;
    return values.length === 0 ? code(name) : `${code(name)}: ${values.join(', ')}`;
  };
  return Object.entries(definition.labels).map(one).join('; ') || '–';
}

function metricTables(): string {
  const all: MetricDefinition[] = Object.values(METRICS);
  return Object.entries(GROUPS)
    .map(([group, title]) => {
      const rows = all
        .filter((definition) => definition.group === group)
        .map((definition) => [code(definition.name), definition.type, labels(definition), definition.help]);
      return `### ${title}\n\n${table(['metric', 'type', 'labels', 'meaning'], rows)}`;
    })
    .join('\n\n');
}

function bucketTable(): string {
  const byBuckets = Map.groupBy(
    Object.values(METRICS).filter((one: MetricDefinition) => one.type === 'histogram'),
    (definition: MetricDefinition) => (definition.buckets ?? []).join(' '),
  );
  return table(
    ['buckets (seconds)', 'of'],
    [...byBuckets].map(([buckets, all]) => [buckets, all.map(({ name }) => code(name)).join(', ')]),
  );
}

function stageTable(): string {
  const rows = STAGE_NAMES.map((name) => [
    code(name),
    STAGES[name].meaning,
    JOB_TABLES.filter((job) => job.stages.some((stage) => stage.name === name))
      .map((job) => job.name)
      .join(', '),
    stageLimit(name, 1).text,
    duration(STAGES[name].seconds),
  ]);
  rows.unshift([
    code(ADMIT.name),
    ADMIT.meaning,
    'all',
    'pipeline.max_running, pipeline.max_teardowns',
    'the caller’s',
  ]);
  return table(['stage', 'what it does', 'in the jobs', 'default limit', 'time limit'], rows);
}

const duration = (seconds: number): string => (seconds < 3600 ? `${seconds} s` : `${seconds / 3600} h`);

function jobTables(): string {
  return JOB_TABLES.map((job) => {
    const rows = job.stages.map(({ name, needs }) => [
      code(name),
      needs.map(code).join(', ') || 'at once',
      STAGES[name].pool,
    ]);
    return `### ${job.name}\n\n${table(['stage', 'needs', 'where'], rows)}`;
  }).join('\n\n');
}

/** Rows of docs/operate/errors.md. */
function errorTable(): string {
  const statusOf = (number: number) => Object.entries(GRPC).find(([, value]) => value === number)?.[0] ?? `${number}`;
  const rows = Object.entries(ERRORS).map(([name, { status, meaning }]) => [name, statusOf(status), meaning]);
  return table(['code', 'gRPC status', 'meaning'], rows);
}

/** The rules of grafana/alerts/sluice.yaml, each linked to its section in the page. */
function alertTable(): string {
  const rules = readFileSync(new URL('../grafana/alerts/sluice.yaml', import.meta.url), 'utf8').split(
    /^ {6}- alert: /m,
  );
  const rows = rules.slice(1).map((rule) => {
    const name = rule.slice(0, rule.indexOf('\n'));
    const field = (key: string) => new RegExp(`^ +${key}: '?(.*?)'?$`, 'm').exec(rule)?.[1] ?? '–';
    const summary = field('summary')
      .replace(/ on \{\{ \$labels\.instance \}\}/, '')
      .replaceAll(/\{\{ \$labels\.(\w+) \}\}/g, '*$1*');
    return [`[${name}](#${name.toLowerCase()})`, field('severity'), field('for'), summary];
  });
  return table(['alert', 'severity', 'for', 'summary'], rows);
}

/** A list of all commands, and then each with its arguments and options. */
function commandTables(): string {
  const usage = ({ name, arguments: args = [] }: Command) => `sluice ${[name, ...args.map(syntax)].join(' ')}`;
  const list = table(
    ['command', 'what it does'],
    COMMANDS.map((command) => [code(usage(command)), command.summary]),
  );
  const each = COMMANDS.map((command) => {
    const rows = [
      ...(command.arguments ?? []).map((one) => [code(one.name), one.description]),
      ...optionsOf(command).map(({ flags, description }) => [code(flags), description]),
    ];
    const parts = [
      `### sluice ${command.name}`,
      command.description ?? '',
      rows.length > 0 ? table(['', ''], rows) : '',
    ];
    return parts.filter((part) => part !== '').join('\n\n');
  });
  return [list, ...each].join('\n\n');
}

function exitTable(): string {
  return table(
    ['status', 'meaning'],
    Object.values(EXIT).map(({ status, meaning }) => [String(status), meaning]),
  );
}

/** The generated parts of each page, by the path of the page and the name between its markers. */
const BLOCKS: Record<string, Record<string, () => string>> = {
  'docs/operate/alerts.md': { alerts: alertTable },
  'docs/operate/cli.md': { exit: exitTable, commands: commandTables },
  'docs/operate/config.md': Object.fromEntries(
    [...printDocs()].map(([section, text]) => [section === '' ? 'top level' : section, () => text]),
  ),
  'docs/operate/errors.md': { errors: errorTable },
  'docs/operate/metrics.md': { metrics: metricTables, buckets: bucketTable },
  'docs/operate/stages.md': { stages: stageTable, jobs: jobTables },
};

/** Paths of the pages that have generated parts. */
export const PAGES = Object.keys(BLOCKS);

/** The page with its tables made anew from the code. Throws when a marker is missing. */
export function renewPage(path: string, text: string): string {
  let page = text;
  for (const [block, make] of Object.entries(BLOCKS[path] ?? {})) {
    const begin = `<!-- ${block} -->\n`;
    const end = `<!-- /${block} -->`;
    const from = page.indexOf(begin);
    const to = page.indexOf(end);
    if (from < 0 || to < from) throw new Error(`${path} lacks the markers of "${block}"`);
    page = `${page.slice(0, from + begin.length)}\n${make()}\n\n${page.slice(to)}`;
  }
  return page;
}
