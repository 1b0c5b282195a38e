import { randomBytes } from 'node:crypto';
import type { Logger } from 'pino';
import { codeOf, explain } from '../../errors.ts';
import { JOBS, STAGES, type StageName } from '../../stages.ts';
import type { JobHistory } from './job-history.ts';
import type { JobRecord, JobRun, JobStart, StageRecord } from './job-record.ts';
import type { Metrics } from './metrics.ts';

/** Makes the spans of ended jobs (tracing.ts). */
export interface JobTracer {
  /** Trace id of a new job; undefined when its trace is not sampled. */
  traceId(traceparent: string | undefined): string | undefined;
  ended(record: JobRecord): void;
}

interface ObserverOptions {
  metrics: Metrics;
  history: JobHistory;
  log: Logger;
  /** Undefined when tracing is off. */
  tracer?: JobTracer;
  /** Called for each ended job, for further metrics (containerd-names.ts). */
  onEnded?: (record: JobRecord) => void;
}

/**
 * The record that the pipeline holds as its JobRun. The start on the monotonic clock has a symbol as key, so JSON omits
 * it.
 */
interface Job extends JobRecord {
  readonly [ZERO]: number;
}

/**
 * Milliseconds between log lines of refused jobs: a queue that is full refuses hundreds a second, and a line for each
 * costs as much as the rest of the refusal.
 */
const REFUSAL_LINE_MS = 1000;

const ZERO = Symbol('performance.now() when the job was queued');

/**
 * Receives the events of jobs from the engine and makes metrics, records for `sluice trace`, one log line per job, and
 * spans of them. There is one record per job; log line and spans are made from it at the end of the job.
 */
export class Observer {
  readonly #options: ObserverOptions;
  #refusalLogged = Number.NEGATIVE_INFINITY;
  /** Refusals since the last one that was logged. */
  #refused = 0;

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
    this.#options.history.add(job);
    return job;
  }

  /** sluice_admission_total counts them all; no record is kept, since they would displace those of launches. */
  jobRefused(start: JobStart, error: Error): void {
    const now = performance.now();
    if (now - this.#refusalLogged < REFUSAL_LINE_MS) {
      this.#refused++;
      return;
    }
    const { job, pod, sandbox, container, image } = start;
    const alike = this.#refused > 0 ? this.#refused : undefined;
    this.#options.log.warn(
      { job, pod, sandbox, container, image, alike, code: codeOf(error), error: explain(error) },
      `${job} refused`,
    );
    this.#refusalLogged = now;
    this.#refused = 0;
  }

  jobJoined(run: JobRun): void {
    (run as Job).joined++;
    this.#options.metrics.inc('admission', { lane: JOBS[run.job].lane, verdict: 'joined' });
    this.#options.log.debug(fields(run as Job), `a further caller joined this ${run.job}`);
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
    const { metrics, history, tracer, onEnded } = this.#options;
    const job = run as Job;
    if (job.ended !== undefined) return;
    job.ended = since(job);
    job.outcome = error ? 'error' : 'ok';
    if (error) {
      job.code = codeOf(error);
      job.error = explain(error);
    }
    history.ended(job);
    // A job that admission dropped has not started; sluice_admission_total counts it.
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

/** Whether a job counts in the job metrics: recoveries and retried clean-ups have no caller that waits, and do not. */
const counts = ({ origin }: JobStart) => origin === undefined || origin === 'call';

const since = (job: Job) => performance.now() - job[ZERO];
const milli = (ms: number) => Math.round(ms * 100) / 100;

/** Fields that all log lines of a job have in common. */
function fields({ id, job, origin, pod, sandbox, container, image }: JobRecord) {
  return { request: id, job, origin, pod, sandbox, container, image };
}

function latest<R extends { stage: StageName }>(records: R[], stage: StageName): R | undefined {
  return records.findLast((record) => record.stage === stage);
}

export type { StageRecord };
