import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { SluiceError } from '../../errors.ts';
import { duration, printable } from '../../node/observe/gantt.ts';
import { ganttSvg } from '../../node/observe/gantt-svg.ts';
import type { JobRecord } from '../../node/observe/job-record.ts';
import type { JobShape } from '../../node/observe/metrics-server.ts';
import { JOB_NAMES } from '../../stages.ts';
import { CLIENT_HELP, CLIENT_OPTIONS, DebugClient } from './client.ts';
import { ganttText } from './gantt-text.ts';

const HELP = `usage: sluice trace [POD] [options]

Shows where a launch spent its time: which stage ran when, and what waited for what. POD is (part of) namespace/name, or the
beginning of a sandbox, container or request id; the newest launch that fits is shown. Without POD: a list of the last ones.
The daemon remembers the last 1000 launches.

  --svg FILE           also write the chart as a picture; - is standard output, without the text
  --job NAME           another job than RunPodSandbox: ${JOB_NAMES.slice(1).join(', ')}
  --all                every job of the pod that is remembered, oldest first
  --slowest            the list is ordered by time taken
  --json               what the daemon knows, as JSON
${CLIENT_HELP}

░ waiting for the stage's limit   █ work   ▒ undo   * the stages that made it as long as it was
`;

const LISTED = 20;

/** `sluice trace [POD]`; the result is the exit status. Throws NOT_READY when no daemon answers, SANDBOX_NOT_FOUND when nothing fits. */
export async function trace(args: string[], out: NodeJS.WritableStream = process.stdout): Promise<number> {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      ...CLIENT_OPTIONS,
      svg: { type: 'string' },
      job: { type: 'string' },
      all: { type: 'boolean' },
      slowest: { type: 'boolean' },
      json: { type: 'boolean' },
    },
  });
  if (values.help) {
    out.write(HELP);
    return 0;
  }
  const [pod] = positionals;
  const client = new DebugClient(values);
  const query = new URLSearchParams();
  const job = values.job ?? (values.all ? undefined : 'RunPodSandbox');
  if (job !== undefined) query.set('job', job);
  if (pod !== undefined) query.set('match', pod);
  const { launches, now } = await client.call<{ launches: JobRecord[]; now: number }>(`/debug/launches?${query}`);
  if (pod === undefined) {
    out.write(values.json ? `${JSON.stringify(launches, null, 2)}\n` : list(launches, values.slowest ?? false, now));
    return 0;
  }
  const chosen = choose(launches, pod, values.all ?? false);
  if (values.json) {
    out.write(`${JSON.stringify(values.all ? chosen : chosen[0], null, 2)}\n`);
    return 0;
  }
  const { jobs } = await client.call<{ jobs: JobShape[] }>('/debug/tables');
  const shapeOf = (record: JobRecord) => jobs.find(({ name }) => name === record.job);
  const width = 'columns' in out && typeof out.columns === 'number' ? out.columns : 110;
  const color = 'isTTY' in out && out.isTTY === true && process.env.NO_COLOR === undefined;
  if (values.svg !== undefined) {
    const [first] = chosen;
    if (!first || chosen.length > 1) throw new SluiceError('INVALID_REQUEST', '--svg draws one job; leave out --all');
    const svg = ganttSvg(first, shapeOf(first), now);
    if (values.svg === '-') {
      out.write(svg);
      return 0;
    }
    writeFileSync(values.svg, svg);
  }
  out.write(chosen.map((record) => ganttText(record, shapeOf(record), { width, color, now })).join('\n'));
  const others = values.all ? 0 : new Set(launches.map(({ pod: other }) => other)).size - 1;
  if (others > 0) out.write(`(${others} other pods fit "${pod}"; give more of the name or id)\n`);
  return 0;
}

/** Newest first in; the newest, or one whose name is exactly what was asked for. */
function choose(launches: JobRecord[], pod: string, all: boolean): JobRecord[] {
  const exact = launches.filter(
    (one) => one.pod === pod || one.pod?.endsWith(`/${pod}`) || one.sandbox === pod || one.id === pod,
  );
  const fitting = exact.length > 0 ? exact : launches;
  const [newest] = fitting;
  if (!newest) throw new SluiceError('SANDBOX_NOT_FOUND', `no launch of "${pod}" is remembered`);
  return all ? fitting.filter((one) => one.pod === newest.pod).reverse() : [newest];
}

function list(launches: JobRecord[], slowest: boolean, now: number): string {
  const took = (one: JobRecord) => one.ended ?? now - one.at;
  const rows = (slowest ? launches.toSorted((a, b) => took(b) - took(a)) : launches).slice(0, LISTED);
  if (rows.length === 0) return 'no launch is remembered yet\n';
  const longest = ({ stages }: JobRecord) => {
    const [first] = stages
      .filter(({ ended }) => ended !== undefined)
      .toSorted((a, b) => (b.ended ?? 0) - b.ready - ((a.ended ?? 0) - a.ready));
    return first ? `${first.stage} ${duration((first.ended ?? 0) - first.ready)}` : '';
  };
  const cells = rows.map((one) => [
    new Date(one.at).toISOString().slice(11, 23),
    one.outcome ?? 'running',
    duration(took(one)),
    longest(one),
    one.id,
    printable(one.pod ?? one.image ?? ''),
  ]);
  const head = ['AT (UTC)', 'OUTCOME', 'TOOK', 'LONGEST STAGE', 'REQUEST', 'POD'];
  const widths = head.map((title, at) => Math.max(title.length, ...cells.map((row) => row[at]?.length ?? 0)));
  return `${[head, ...cells]
    .map((row) =>
      row
        .map((cell, at) => cell.padEnd(widths[at] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')}\n`;
}
