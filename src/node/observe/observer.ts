import { randomBytes } from 'node:crypto';
import type { Logger } from 'pino';
import { codeOf, explain } from '../../errors.ts';
import { JOBS, STAGES, type StageName } from '../../stages.ts';
import type { JobRecord, JobRun, JobStart, StageRecord } from './job-record.ts';
import type { Launches } from './launches.ts';
import type { Metrics } from './metrics.ts';

/** Where the spans of an ended job go (tracing.ts). */
export interface JobTracer {
  /** The trace a new job belongs to; undefined when it is not sampled. */
  traceId(traceparent: string | undefined): string | undefined;
  ended(record: JobRecord): void;
}

export interface ObserverOptions {
  metrics: Metrics;
  launches: Launches;
  log: Logger;
  /** Absent while tracing is off: nothing is done for it then. */
  tracer?: JobTracer;
  /** Hears of each ended job, for further metrics (containerd-names.ts). */
  onEnded?: (record: JobRecord) => void;
}

/** A record that the pipeline holds as its JobRun. The clock's zero is kept out of what is shown. */
interface Job extends JobRecord {
  readonly [ZERO]: number;
}

const ZERO = Symbol('performance.now() when the job was queued');

/**
 * Turns what the pipeline tells into metrics, records for `sluice trace`, one log line per job, and spans. All of it is made
 * from one record per job; the log line and the spans only at its end.
 */
export class Observer {
  readonly #options: ObserverOptions;

  constructor(options: ObserverOptions) {
    this.#options = options;
  }

  jobQueued(start: JobStart): JobRun {
    const job: Job = {
      ...start,
      id: randomBytes(8).toString('hex'),
      at: Date.now(),
      joined: 0,
      stages: [],
      undos: [],
      traceId: this.#options.tracer?.traceId(start.traceparent),
      [ZERO]: performance.now(),
    };
    this.#options.launches.add(job);
    return job;
  }

  jobJoined(run: JobRun): void {
    (run as Job).joined++;
    this.#options.metrics.inc('admission', { lane: JOBS[run.job].lane, verdict: 'joined' });
    this.#options.log.debug(fields(run as Job), `a further caller waits for this ${run.job}`);
  }

  jobStarted(run: JobRun): void {
    const job = run as Job;
    job.started = since(job);
    if (counts(job)) this.#options.metrics.observe('stageQueue', { job: job.job, stage: 'admit' }, job.started / 1000);
  }

  stageReady(run: JobRun, stage: StageName): void {
    (run as Job).stages.push({ stage, pool: STAGES[stage].pool, ready: since(run as Job) });
  }

  stageStarted(run: JobRun, stage: StageName): void {
    const job = run as Job;
    const record = latest(job.stages, stage);
    if (!record) return;
    record.started = since(job);
    this.#options.metrics.observe('stageQueue', { job: job.job, stage }, (record.started - record.ready) / 1000);
  }

  stageEnded(run: JobRun, stage: StageName, error: Error | undefined): void {
    const job = run as Job;
    const record = latest(job.stages, stage);
    if (!record) return;
    record.ended = since(job);
    if (error) record.error = explain(error);
    const seconds = (record.ended - (record.started ?? record.ready)) / 1000;
    const labels = { job: job.job, stage, outcome: error ? 'error' : 'ok' } as const;
    this.#options.metrics.observe('stageDuration', labels, seconds, job.traceId);
  }

  undoStarted(run: JobRun, stage: StageName): void {
    (run as Job).undos.push({ stage, started: since(run as Job) });
  }

  undoEnded(run: JobRun, stage: StageName, error: Error | undefined): void {
    const job = run as Job;
    const record = latest(job.undos, stage);
    if (!record) return;
    record.ended = since(job);
    if (error) record.error = explain(error);
    const seconds = (record.ended - record.started) / 1000;
    this.#options.metrics.observe('undoDuration', { stage, outcome: error ? 'error' : 'ok' }, seconds);
  }

  jobEnded(run: JobRun, error: Error | undefined): void {
    const { metrics, launches, tracer, onEnded } = this.#options;
    const job = run as Job;
    if (job.ended !== undefined) return;
    job.ended = since(job);
    job.outcome = error ? 'error' : 'ok';
    if (error) {
      job.code = codeOf(error);
      job.error = explain(error);
    }
    launches.ended(job);
    // What admission turned away never was a job: sluice_admission_total has it.
    if (counts(job) && job.started !== undefined) {
      metrics.observe('jobDuration', { job: job.job, outcome: job.outcome }, job.ended / 1000, job.traceId);
    }
    this.#log(job);
    tracer?.ended(job);
    onEnded?.(job);
  }

  #log(job: Job): void {
    const stages: Record<string, { queue: number; work: number }> = {};
    for (const { stage, ready, started = ready, ended = started } of job.stages) {
      stages[stage] = { queue: milli(started - ready), work: milli(ended - started) };
    }
    const undos: Record<string, number> = {};
    for (const { stage, started, ended = started } of job.undos) undos[stage] = milli(ended - started);
    const line = {
      ...fields(job),
      ms: milli(job.ended ?? 0),
      queue: milli(job.started ?? job.ended ?? 0),
      joined: job.joined > 0 ? job.joined : undefined,
      stages,
      undos: job.undos.length > 0 ? undos : undefined,
      trace: job.traceId,
    };
    const { log } = this.#options;
    const what = counts(job) ? job.job : `${job.origin} of ${job.job}`;
    if (job.outcome === 'ok') log.info(line, `${what} done`);
    else {
      const failed = job.stages.find(({ error }) => error !== undefined)?.stage;
      const level = job.code === 'INTERNAL' ? 'error' : 'warn';
      log[level]({ ...line, stage: failed, code: job.code, error: job.error }, `${what} failed`);
    }
  }
}

/** Recoveries and retried clean-ups have no caller who waits, and no share in the job metrics. */
const counts = ({ origin }: JobStart) => origin === undefined || origin === 'call';

const since = (job: Job) => performance.now() - job[ZERO];
const milli = (ms: number) => Math.round(ms * 100) / 100;

/** The names that tie the log lines of one job, pod or container together. */
function fields({ id, job, origin, pod, sandbox, container, image }: JobRecord) {
  return { request: id, job, origin, pod, sandbox, container, image };
}

function latest<R extends { stage: StageName }>(records: R[], stage: StageName): R | undefined {
  return records.findLast((record) => record.stage === stage);
}

export type { StageRecord };
