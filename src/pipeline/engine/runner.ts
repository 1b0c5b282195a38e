import { JOBS } from '../../stages.ts';
import type { Admission } from './admission.ts';
import type { Engine } from './engine.ts';
import type { JobObserver, JobRun, JobStart } from './observer.ts';
import type { JobState, JobTable } from './stage.ts';

/** How a job enters the pipeline. */
export interface Entry {
  start: JobStart;
  /** Higher goes first, in the queue of its lane and in those of its stages. */
  priority: number;
  /**
   * Absent: the job is part of one that was admitted, and takes no place of its own. Were it to queue for one, the pods
   * of a drained node could hold all places and wait for each other for ever.
   */
  admit?: { abandoned?: AbortSignal };
  /** Receives the job's handle before it is admitted. */
  onQueued?: (job: JobRun) => void;
}

/** The one way of every job: queued, admitted, started, run, ended, with the observer called at each turn. */
export class Runner {
  readonly engine: Engine;
  readonly observer: JobObserver;
  readonly #admission: Admission;

  constructor({ engine, observer, admission }: { engine: Engine; observer: JobObserver; admission: Admission }) {
    this.engine = engine;
    this.observer = observer;
    this.#admission = admission;
  }

  /**
   * Throws QUEUE_FULL when the job that would begin so could not even be queued. Callers whose jobs need much to begin
   * with ask before they prepare it.
   */
  refuseWhenFull(start: JobStart): void {
    try {
      this.#admission.refuseWhenFull(JOBS[start.job].lane);
    } catch (error) {
      this.observer.jobRefused(start, error as Error);
      throw error;
    }
  }

  /**
   * Runs `work` as one job. Rejects with what `work` throws, or, without having run it, with QUEUE_FULL, SHUTTING_DOWN,
   * DEADLINE_PASSED or CALLER_GONE. A job that has started goes on when its caller leaves.
   */
  async job<T>({ start, priority, admit, onQueued }: Entry, work: (job: JobRun) => Promise<T>): Promise<T> {
    const { observer } = this;
    if (admit) this.refuseWhenFull(start);
    const job = observer.jobQueued(start);
    const begin = () => {
      observer.jobStarted(job);
      return work(job);
    };
    let failure: Error | undefined;
    try {
      onQueued?.(job);
      if (!admit) return await begin();
      const { lane } = JOBS[start.job];
      return await this.#admission.run({ lane, priority, abandoned: admit.abandoned }, begin);
    } catch (error) {
      failure = error instanceof Error ? error : new Error(String(error));
      throw error;
    } finally {
      observer.jobEnded(job, failure);
    }
  }

  /** Runs the stages of `table` as one job. Rejects with a JobError that names the stage, after the undo. */
  run<S extends JobState<R, C>, R, C>(table: JobTable<S, R, C>, state: S, entry: Entry): Promise<void> {
    return this.job(entry, (job) => this.engine.run(table, state, job, entry.priority));
  }

  /** Undoes `table` from its row as one job, outside admission. Rejects when something is left. */
  undo<S extends JobState<R, C>, R, C>(table: JobTable<S, R, C>, row: R, ctx: C, start: JobStart): Promise<void> {
    return this.job({ start, priority: 0 }, (job) => this.engine.undo(table, row, ctx, job));
  }
}
