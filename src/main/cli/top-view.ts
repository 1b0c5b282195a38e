import { duration, printable } from '../../node/observe/gantt.ts';
import { endOf, type JobRecord } from '../../node/observe/job-record.ts';
import type { NowView } from '../../node/observe/metrics-server.ts';
import { ADMIT, type QueueName, type StageName } from '../../stages.ts';
import { painter } from './gantt-text.ts';

/** Records of the jobs that ended in the last minute. */
export class LastMinute {
  #jobs: JobRecord[] = [];

  /** Adds ended jobs, without duplicates, and drops those that ended more than a minute before `now`. */
  add(ended: JobRecord[], now: number): void {
    const known = new Set(this.#jobs.map(({ id }) => id));
    this.#jobs.push(...ended.filter(({ id }) => !known.has(id)));
    this.#jobs = this.#jobs.filter((job) => endOf(job) > now - 60_000);
  }

  /** The latest end, in milliseconds since the epoch; undefined without jobs. */
  get newest(): number | undefined {
    return this.#jobs.length === 0 ? undefined : Math.max(...this.#jobs.map(endOf));
  }

  get jobs(): readonly JobRecord[] {
    return this.#jobs;
  }

  /** Queue waits and work of one stage over all jobs, sorted, in milliseconds. */
  stage(name: QueueName): { queue: number[]; work: number[]; failed: number } {
    const queue: number[] = [];
    const work: number[] = [];
    let failed = 0;
    for (const { stages, started } of this.#jobs) {
      if (name === ADMIT.name && started !== undefined) queue.push(started);
      for (const stage of stages) {
        if (stage.stage !== name || stage.started === undefined || stage.ended === undefined) continue;
        queue.push(stage.started - stage.ready);
        work.push(stage.ended - stage.started);
        if (stage.error !== undefined) failed++;
      }
    }
    return { queue: queue.sort(ascending), work: work.sort(ascending), failed };
  }
}

interface ViewOptions {
  width: number;
  height: number;
  color: boolean;
  /** CPU time per second since the last view, in cores. */
  cores?: number;
  address: string;
}

/** One view of `sluice top`: at most `height` lines of at most `width` characters, not counting colour sequences. */
export function topView(now: NowView, minute: LastMinute, options: ViewOptions): string[] {
  const paint = painter(options.color);
  const head = (text: string) => paint(text.padEnd(options.width), 'bold');
  const body = [
    ...wrapped(summary(now, minute, options), '  ', options.width),
    ...wrapped(lanes(now), '   ', options.width),
    ...wrapped(shims(now), '   ', options.width),
    '',
    head('STAGE      RUNNING  LIMIT  QUEUED   LAST MIN  FAILED   WAIT p50      p99   WORK p50      p99'),
    ...stageRows(now, minute, paint),
    '',
  ];
  // The jobs of now and the slowest launches share the rest of the screen.
  const left = Math.max(6, options.height - body.length - 3);
  const slowest = slowestRows(minute, Math.min(5, Math.floor(left / 3)));
  const jobs = jobRows(now, left - slowest.length - 1);
  body.push(head(`RUNNING AND QUEUED NOW (${now.jobs.length})`), ...jobs, '');
  body.push(head('SLOWEST OF THE LAST MINUTE'), ...slowest);
  return body.slice(0, options.height).map((line) => (line.includes('\x1b') ? line : line.slice(0, options.width)));
}

function summary(now: NowView, minute: LastMinute, { cores, address }: ViewOptions): string[] {
  const launches = minute.jobs.filter(({ job, started }) => job === 'RunPodSandbox' && started !== undefined);
  const took = launches
    .filter(({ outcome }) => outcome === 'ok')
    .map((one) => one.ended ?? 0)
    .sort(ascending);
  const failed = launches.length - took.length;
  const { p99, max } = now.loopDelay;
  return [
    `sluice ${now.version} ${address}`,
    `${now.pods.ready ?? 0} pods ready`,
    `launches ${launches.length}/min p50 ${ms(took, 0.5)} p99 ${ms(took, 0.99)}${failed > 0 ? ` ${failed} FAILED` : ''}`,
    now.cleanupsPending > 0 ? `${now.cleanupsPending} CLEAN-UPS PENDING` : '',
    `loop p99 ${duration(p99 * 1000)} max ${duration(max * 1000)}`,
    `${Math.round(now.residentBytes / 2 ** 20)} MiB`,
    cores === undefined ? '' : `${cores.toFixed(2)} cores`,
    `up ${duration(now.uptimeSeconds * 1000)}`,
  ].filter((part) => part !== '');
}

/** Joins the parts to as few lines as possible. */
function wrapped(parts: string[], between: string, width: number): string[] {
  const lines: string[] = [];
  for (const part of parts) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + between.length + part.length <= width)
      lines[lines.length - 1] = last + between + part;
    else lines.push(part);
  }
  return lines;
}

function lanes(now: NowView): string[] {
  const lane = ([name, use]: [string, { running: number; queued: number; limit: number }]) =>
    `${name} ${use.running}/${use.limit} running ${use.queued}/${now.laneQueueLimit} queued`;
  const pool = ({ name, threads, running, queued }: NowView['pools'][number]) =>
    `${name} ${running}${queued > 0 ? `+${queued}` : ''} on ${threads} threads`;
  return [...Object.entries(now.lanes).map(lane), ...now.pools.map(pool)];
}

/** How many pods each shim serves: `shims of runc: 13`, `12 with 16 pods`, `1 with 4 pods`. Most pods first. */
function shims(now: NowView): string[] {
  const byRuntime = Map.groupBy(now.shims, ({ runtime }) => runtime);
  return [...byRuntime].flatMap(([runtime, own]) => {
    const byPods = [...Map.groupBy(own, ({ pods }) => pods)].sort(([a], [b]) => b - a);
    const parts = byPods.map(([pods, alike]) => `${alike.length} with ${pods} pod${pods === 1 ? '' : 's'}`);
    return [`shims of ${runtime}: ${own.length}`, ...parts];
  });
}

type StageUse = NonNullable<NowView['stages'][StageName]>;

function stageRows(now: NowView, minute: LastMinute, paint: ReturnType<typeof painter>): string[] {
  const rows: string[] = [];
  const entries = [[ADMIT.name, undefined], ...Object.entries(now.stages)] as [QueueName, StageUse | undefined][];
  for (const [name, use] of entries) {
    const { queue, work, failed } = minute.stage(name);
    if (queue.length === 0 && !use?.running && !use?.queued) continue;
    const row = [
      name.padEnd(9),
      String(use?.running ?? '').padStart(8),
      String(use?.limit ?? '').padStart(6),
      String(use?.queued ?? '').padStart(7),
      String(queue.length).padStart(10),
      String(failed === 0 ? '' : failed).padStart(7),
      ms(queue, 0.5).padStart(10),
      ms(queue, 0.99).padStart(8),
      ms(work, 0.5).padStart(10),
      ms(work, 0.99).padStart(8),
    ].join(' ');
    rows.push(use && use.queued > 0 && use.running >= use.limit ? paint(row, 'yellow') : row);
  }
  return rows.length > 0 ? rows : ['nothing in the last minute'];
}

function jobRows(now: NowView, room: number): string[] {
  const rows = now.jobs.slice(0, Math.max(0, room)).map((job) => {
    const age = duration(now.now - job.at).padStart(9);
    return `${age}  ${job.job.padEnd(16)} ${where(job).padEnd(36)} ${printable(job.pod ?? job.image ?? '')}`;
  });
  const hidden = now.jobs.length - rows.length;
  if (hidden > 0) rows.push(`${''.padStart(9)}  and ${hidden} more`);
  return rows;
}

/**
 * Progress of a job, such as `network (shim, rootfs wait)`: the stages that run, and those that wait for their limit.
 */
function where({ started, stages, undos }: JobRecord): string {
  if (started === undefined) return 'queued';
  const undoing = undos.filter(({ ended }) => ended === undefined).map(({ stage }) => `undo ${stage}`);
  const working = stages
    .filter((one) => one.started !== undefined && one.ended === undefined)
    .map(({ stage }) => stage);
  const waiting = stages.filter((one) => one.started === undefined).map(({ stage }) => stage);
  const text = [...undoing, ...working].join(', ');
  if (undoing.length > 0 || waiting.length === 0) return text;
  return text === '' ? `${waiting.join(', ')} wait` : `${text} (${waiting.join(', ')} wait)`;
}

function slowestRows(minute: LastMinute, room: number): string[] {
  return minute.jobs
    .filter(({ job }) => job === 'RunPodSandbox')
    .toSorted((a, b) => (b.ended ?? 0) - (a.ended ?? 0))
    .slice(0, room)
    .map(({ ended = 0, stages, pod, outcome }) => {
      const [longest] = stages.toSorted((a, b) => (b.ended ?? 0) - b.ready - ((a.ended ?? 0) - a.ready));
      const stage = longest ? `${longest.stage} ${duration((longest.ended ?? ended) - longest.ready)}` : '';
      const what = outcome === 'ok' ? stage : `FAILED ${stage}`;
      return `${duration(ended).padStart(9)}  ${what.padEnd(36)} ${printable(pod ?? '')}`;
    });
}

const ascending = (a: number, b: number) => a - b;

/** A quantile of sorted durations in milliseconds, formatted. */
function ms(sorted: number[], q: number): string {
  const value = sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))];
  return value === undefined ? '–' : duration(value).replace(' ', '');
}
