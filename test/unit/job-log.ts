/** What the observer is called with, by job. */
import assert from 'node:assert/strict';
import type { JobObserver, JobRun, JobStart } from '../../src/pipeline/engine/observer.ts';

export interface LoggedJob {
  start: JobStart;
  /**
   * The calls for this job in order: "queued", "started", "ready netns", "undo netns", …; what ended with an error ends
   * in "!".
   */
  calls: string[];
  error?: Error;
}

export interface JobLog {
  observer: JobObserver;
  jobs: LoggedJob[];
  /** What the full queue refused. */
  refused: JobStart[];
  /** Fails unless every job has started at most once and ended exactly once, with nothing after its end. */
  assertClosed(): void;
}

export function logJobs(): JobLog {
  const jobs: LoggedJob[] = [];
  const refused: JobStart[] = [];
  const byId = new Map<string, LoggedJob>();
  const put = (run: JobRun, call: string, error?: Error) => {
    const job = byId.get(run.id);
    assert.ok(job, `"${call}" for a job that was never queued`);
    job.calls.push(error ? `${call}!` : call);
    return job;
  };
  return {
    jobs,
    refused,
    observer: {
      jobRefused: (start) => void refused.push(start),
      jobQueued(start) {
        const run = { ...start, id: String(byId.size) };
        const job = { start, calls: ['queued'] };
        byId.set(run.id, job);
        jobs.push(job);
        return run;
      },
      jobJoined: (job) => void put(job, 'joined'),
      jobStarted: (job) => void put(job, 'started'),
      stageReady: (job, stage) => void put(job, `ready ${stage}`),
      stageStarted: (job, stage) => void put(job, `start ${stage}`),
      stageEnded: (job, stage, error) => void put(job, `end ${stage}`, error),
      undoStarted: (job, stage) => void put(job, `undo ${stage}`),
      undoEnded: (job, stage, error) => void put(job, `undone ${stage}`, error),
      jobEnded(job, error) {
        put(job, 'ended', error).error = error;
      },
    },
    assertClosed() {
      for (const { start, calls } of jobs) {
        const count = (call: string) => calls.filter((one) => one === call || one === `${call}!`).length;
        const all = `${start.job}: ${calls.join(', ')}`;
        assert.equal(count('ended'), 1, `one end: ${all}`);
        assert.match(calls.at(-1) ?? '', /^ended/, `nothing after the end: ${all}`);
        assert.ok(count('started') <= 1, `one start: ${all}`);
        if (calls.at(-1) === 'ended') assert.equal(count('started'), 1, `what ended well has started: ${all}`);
      }
    },
  };
}
