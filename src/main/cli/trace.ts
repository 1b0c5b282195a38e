import { writeFileSync } from 'node:fs';
import { SluiceError } from '../../errors.ts';
import { duration, printable } from '../../node/observe/gantt.ts';
import { ganttSvg } from '../../node/observe/gantt-svg.ts';
import type { JobRecord, JobShape } from '../../node/observe/job-record.ts';
import { JOB_NAMES } from '../../stages.ts';
import { DebugClient } from './client.ts';
import { type Call, type Command, EXIT, optionText, printJson, useColor } from './command.ts';
import { ganttText } from './gantt-text.ts';

const LISTED = 20;

/**
 * Throws NOT_READY when no daemon answers, SANDBOX_NOT_FOUND when nothing fits, INVALID_REQUEST for --svg of several.
 */
async function trace(call: Call): Promise<number> {
  const { out } = call;
  const { json, all, slowest } = call.options;
  const svg = optionText(call, 'svg');
  const [pod] = call.arguments;
  const client = new DebugClient(call);
  const query = new URLSearchParams();
  const job = optionText(call, 'job') ?? (all ? undefined : 'RunPodSandbox');
  if (job !== undefined) query.set('job', job);
  if (pod !== undefined) query.set('match', pod);
  const { launches, now } = await client.call<{ launches: JobRecord[]; now: number }>(`/debug/launches?${query}`);
  if (pod === undefined) {
    if (json) printJson(out, launches);
    else out.write(list(launches, slowest === true, now));
    return EXIT.ok.status;
  }
  const chosen = choose(launches, pod, all === true);
  if (json) {
    printJson(out, all ? chosen : chosen[0]);
    return EXIT.ok.status;
  }
  const { jobs } = await client.call<{ jobs: JobShape[] }>('/debug/tables');
  const shapeOf = (record: JobRecord) => jobs.find(({ name }) => name === record.job);
  const width = out.columns ?? 110;
  const color = useColor(out);
  if (svg !== undefined) {
    const [first] = chosen;
    if (!first || chosen.length > 1)
      throw new SluiceError('INVALID_REQUEST', '--svg draws one job and cannot be combined with --all');
    const picture = ganttSvg(first, shapeOf(first), now);
    if (svg === '-') {
      out.write(picture);
      return EXIT.ok.status;
    }
    writeFileSync(svg, picture);
  }
  out.write(chosen.map((record) => ganttText(record, shapeOf(record), { width, color, now })).join('\n'));
  const others = all ? 0 : new Set(launches.map(({ pod: other }) => other)).size - 1;
  if (others > 0) out.write(`(${others} other pods match "${pod}"; give more of the name or id)\n`);
  return EXIT.ok.status;
}

export const TRACE: Command = {
  name: 'trace',
  summary: 'one launch as a Gantt chart',
  description:
    'Shows where a launch spent its time: which stage ran when, and what waited for what. Without a pod: a list of the last launches. The daemon remembers the last 1000. In the chart, ░ is waiting for the stage’s limit, █ work, ▒ undo, and * marks the stages that made the launch as long as it was.',
  arguments: [
    {
      name: 'pod',
      description:
        '(part of) namespace/name, or the beginning of a sandbox, container or request id; the newest launch that fits is shown',
      optional: true,
      complete: 'pod',
    },
  ],
  options: [
    { flags: '--svg <file>', description: 'also write the chart as a picture; - is standard output, without the text' },
    { flags: '--job <name>', description: 'another job than RunPodSandbox', complete: JOB_NAMES },
    { flags: '--all', description: 'every job of the pod that is remembered, oldest first' },
    { flags: '--slowest', description: 'order the list by time taken' },
  ],
  peers: ['metrics'],
  json: true,
  run: trace,
};

/**
 * The newest launch (of `launches`, newest first), or the newest whose name or id is exactly `pod`; with `all`, all
 * jobs of that pod.
 */
function choose(launches: JobRecord[], pod: string, all: boolean): JobRecord[] {
  const exact = launches.filter(
    (one) => one.pod === pod || one.pod?.endsWith(`/${pod}`) || one.sandbox === pod || one.id === pod,
  );
  const fitting = exact.length > 0 ? exact : launches;
  const [newest] = fitting;
  if (!newest) throw new SluiceError('SANDBOX_NOT_FOUND', `the daemon has no launch that matches "${pod}"`);
  return all ? fitting.filter((one) => one.pod === newest.pod).reverse() : [newest];
}

function list(launches: JobRecord[], slowest: boolean, now: number): string {
  const took = (one: JobRecord) => one.ended ?? now - one.at;
  const rows = (slowest ? launches.toSorted((a, b) => took(b) - took(a)) : launches).slice(0, LISTED);
  if (rows.length === 0) return 'no launch yet\n';
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
