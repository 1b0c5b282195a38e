/**
 * Events of jobs. Observers implement this interface: metrics, the ring of launches, the log and spans all hang on it.
 * Calls are synchronous, cheap (about a microsecond) and never throw.
 *
 * The order of calls for one job:
 *
 *     jobQueued → jobStarted → (stageReady → stageStarted → stageEnded)* → (undoStarted → undoEnded)* → jobEnded
 *
 * One that the full queue refused has jobRefused alone, and one that was dropped from the queue goes jobQueued →
 * jobEnded with the error. A stage that was ready when another one failed is never started. A clean-up outside any call
 * (recovery, a retried undo) is a job with another `origin`.
 */
import type { JobRun, JobStart } from '../../node/observe/job-record.ts';
import type { StageName } from '../../stages.ts';

export type { JobRun, JobStart };

export interface JobObserver {
  /** A job came in; it may wait for admission from now on. */
  jobQueued(start: JobStart): JobRun;
  /** The queue was full: there is no job. */
  jobRefused(start: JobStart, error: Error): void;
  /** One more caller waits for this job instead of starting its own. */
  jobJoined(job: JobRun): void;
  /** The job was admitted and runs from now on. */
  jobStarted(job: JobRun): void;
  /** All that the stage needs is done; it may wait for its limit from now on. */
  stageReady(job: JobRun, stage: StageName): void;
  stageStarted(job: JobRun, stage: StageName): void;
  stageEnded(job: JobRun, stage: StageName, error: Error | undefined): void;
  undoStarted(job: JobRun, stage: StageName): void;
  undoEnded(job: JobRun, stage: StageName, error: Error | undefined): void;
  /** The job is over, undos included. */
  jobEnded(job: JobRun, error: Error | undefined): void;
}

/** An observer that records nothing, for tests. */
export const NO_OBSERVER: JobObserver = {
  jobQueued: (start) => ({ ...start, id: '' }),
  jobRefused() {},
  jobJoined() {},
  jobStarted() {},
  stageReady() {},
  stageStarted() {},
  stageEnded() {},
  undoStarted() {},
  undoEnded() {},
  jobEnded() {},
};
