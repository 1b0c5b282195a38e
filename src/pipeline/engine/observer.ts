/**
 * What the pipeline tells about its jobs, and to whom it does not care: metrics, the launch ring, logs and spans all hang on
 * this one interface (src/node/observe/observer.ts). Calls are synchronous, cheap (about a microsecond) and never throw.
 *
 * The order of calls for one job:
 *
 *     jobQueued → jobStarted → (stageReady → stageStarted → stageEnded)* → (undoStarted → undoEnded)* → jobEnded
 *
 * A job that was refused or dropped from the queue goes jobQueued → jobEnded with the error. A stage that was ready when another
 * one failed is never started. A clean-up outside any call (recovery, a retried undo) is a job with another `origin`.
 */
import type { JobName, PoolName, StageName } from '../../stages.ts';

export interface JobStart {
  job: JobName;
  /** Why it runs: a CRI call, the daemon's start, or a retried clean-up. Only calls count in the job metrics. */
  origin?: 'call' | 'recovery' | 'cleanup';
  /** "namespace/name" of the pod; for containers the pod they are in; absent for image pulls. */
  pod?: string;
  /** Sandbox id, where it is known already. */
  sandbox?: string;
  /** Container id, likewise; or its name until there is an id. */
  container?: string;
  /** Image reference, for pulls. */
  image?: string;
  /** W3C traceparent header of the caller. */
  traceparent?: string;
}

/** A job as its observer knows it: made by {@link JobObserver.jobQueued}, handed back in every later call. */
export interface JobRun extends JobStart {
  /** Request id: 16 hex digits, on every log line and in `sluice trace`. */
  readonly id: string;
  /** May be filled in later, as soon as it is known (before `reserve` runs, say). */
  sandbox?: string;
  container?: string;
}

export interface JobObserver {
  /** A job came in; it may wait for admission from now on. */
  jobQueued(start: JobStart): JobRun;
  /** One more caller waits for this job instead of starting its own. */
  jobJoined(job: JobRun): void;
  /** The job was admitted and runs from now on. */
  jobStarted(job: JobRun): void;
  /** All that the stage needs is done; it may wait for its limit from now on. */
  stageReady(job: JobRun, stage: StageName, pool: PoolName): void;
  stageStarted(job: JobRun, stage: StageName): void;
  stageEnded(job: JobRun, stage: StageName, error: Error | undefined): void;
  undoStarted(job: JobRun, stage: StageName): void;
  undoEnded(job: JobRun, stage: StageName, error: Error | undefined): void;
  /** The job is over, undos included. */
  jobEnded(job: JobRun, error: Error | undefined): void;
}

/** An observer that sees nothing, for tests. */
export const NO_OBSERVER: JobObserver = {
  jobQueued: (start) => ({ ...start, id: '' }),
  jobJoined() {},
  jobStarted() {},
  stageReady() {},
  stageStarted() {},
  stageEnded() {},
  undoStarted() {},
  undoEnded() {},
  jobEnded() {},
};
