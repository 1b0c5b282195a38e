import { codeOf, explain, SluiceError } from '../../errors.ts';
import { STAGE_NAMES, STAGES, type StageName } from '../../stages.ts';
import { withTimeLimit } from '../../time-limit.ts';
import type { JobObserver, JobRun } from './observer.ts';
import { Places } from './places.ts';
import type { RetryQueue } from './retry-queue.ts';
import type { JobState, JobTable, Stage } from './stage.ts';

export interface EngineOptions {
  /** How many of each stage run at once, over all jobs. */
  limits: Record<StageName, number>;
  observer: JobObserver;
  /** Milliseconds that one undo may take; never the caller's time. */
  undoTimeoutMs: number;
  /** Milliseconds after which a stage is given up, where that differs from the table in src/stages.ts. */
  timeLimitsMs?: Partial<Record<StageName, number>>;
  /**
   * Milliseconds after which a stage that still runs gives its place to the next, see {@link Places}. Left out: never.
   */
  leaseMs?: number;
  /** Tries the undos of stages that ended late; left out, each is tried once. */
  retries?: Pick<RetryQueue, 'add'>;
}

/** A stage that was given up, and its work, which may still end. */
interface Late<S extends JobState<R, C>, R, C> {
  stage: Stage<S, R, C>;
  work: Promise<void>;
}

/** A failed job. `stuck` is there when its undo failed as well: the row still names what is left. */
export class JobError extends SluiceError {
  readonly stuck?: SluiceError;

  constructor(failure: SluiceError, stuck?: SluiceError) {
    super(failure.code, failure.message, { cause: failure.cause, stage: failure.stage });
    this.stuck = stuck;
  }
}

/**
 * Runs jobs: starts each stage as soon as what it needs is done and its limit has room, and when one fails, lets those
 * that run finish (nothing is cancelled midway), then undoes everything that was started. A stage that exceeds its time
 * limit fails with TIMED_OUT; its work cannot be ended (a mount call in uninterruptible sleep), so what it brings about
 * when it ends after all is undone then.
 */
export class Engine {
  readonly #options: EngineOptions;
  readonly #limits: Record<StageName, Places>;

  constructor(options: EngineOptions) {
    this.#options = options;
    const { limits, leaseMs } = options;
    const places = STAGE_NAMES.map((name) => [name, new Places({ limit: limits[name], leaseMs })]);
    this.#limits = Object.fromEntries(places);
  }

  /** Other limits from now on. What runs goes on, also above a lower limit. */
  setLimits(limits: Record<StageName, number>): void {
    for (const name of STAGE_NAMES) this.#limits[name].limit = limits[name];
  }

  /** Runs a job to its end. Throws a {@link JobError} with the first failure, which names its stage, after the undo. */
  async run<S extends JobState<R, C>, R, C>(
    table: JobTable<S, R, C>,
    state: S,
    job: JobRun,
    priority: number,
  ): Promise<void> {
    const { observer } = this.#options;
    const started = new Set<Stage<S, R, C>>();
    const done = new Map<StageName, Promise<void>>();
    const late: Late<S, R, C>[] = [];
    let failure: SluiceError | undefined;

    const runStage = async (stage: Stage<S, R, C>): Promise<void> => {
      await Promise.all(stage.needs.map((need) => done.get(need)));
      if (failure || stage.skip?.(state)) return;
      observer.stageReady(job, stage.name);
      await this.#limits[stage.name].add(
        async () => {
          if (failure) return;
          started.add(stage);
          observer.stageStarted(job, stage.name);
          try {
            const work = start(() => stage.run(state));
            await withTimeLimit(work, this.#timeLimitMs(stage, state), () => {
              late.push({ stage, work });
              throw new SluiceError('TIMED_OUT', `no end within ${this.#timeLimitMs(stage, state) / 1000} s`);
            });
            observer.stageEnded(job, stage.name, undefined);
          } catch (cause) {
            const error = stageError(stage.name, cause);
            failure ??= error;
            observer.stageEnded(job, stage.name, error);
          }
        },
        { priority },
      );
    };
    for (const stage of table.stages) done.set(stage.name, runStage(stage));
    await Promise.all(done.values());
    if (!failure) return;
    const stuck = await this.#undo(table, started, state.row, state.ctx, job);
    for (const one of late) void this.#undoLate(table, one, state, job);
    throw new JobError(failure, stuck);
  }

  /**
   * Undoes a whole job from its row: for a removal, a retry of a clean-up, or a launch that a dead daemon left
   * half-way. Throws when something is left; the row still names it.
   */
  async undo<S extends JobState<R, C>, R, C>(table: JobTable<S, R, C>, row: R, ctx: C, job: JobRun): Promise<void> {
    const stuck = await this.#undo(table, new Set(table.stages), row, ctx, job);
    if (stuck) throw stuck;
  }

  /** How many of a stage run and wait now. */
  use(stage: StageName): { running: number; queued: number; limit: number } {
    const { running, queued, limit } = this.#limits[stage];
    return { running, queued, limit };
  }

  #timeLimitMs<S extends JobState<R, C>, R, C>(stage: Stage<S, R, C>, state: S): number {
    const limit = this.#options.timeLimitsMs?.[stage.name] ?? STAGES[stage.name].seconds * 1000;
    return limit + (stage.extraSeconds?.(state) ?? 0) * 1000;
  }

  /**
   * Waits, however long, for work that was given up, and undoes its stage once more: it may have done the rest after
   * the first undo. The job is over by then, so this is a clean-up of its own.
   */
  async #undoLate<S extends JobState<R, C>, R, C>(
    { name }: JobTable<S, R, C>,
    { stage, work }: Late<S, R, C>,
    { row, ctx }: S,
    job: JobRun,
  ): Promise<void> {
    const { undo } = stage;
    if (!undo) return;
    await work.catch(() => {}); // the job has failed already, with TIMED_OUT
    const { observer, undoTimeoutMs, retries } = this.#options;
    const cleanUp = async () => {
      const { pod, sandbox, container, image } = job;
      const run = observer.jobQueued({ job: name, origin: 'cleanup', pod, sandbox, container, image });
      observer.jobStarted(run);
      observer.undoStarted(run, stage.name);
      let error: SluiceError | undefined;
      try {
        await withLimit(undoTimeoutMs, () => undo(row, ctx));
      } catch (cause) {
        error = stageError(stage.name, cause, 'undo of the late end of stage');
      }
      observer.undoEnded(run, stage.name, error);
      observer.jobEnded(run, error);
      if (error) throw error;
    };
    if (retries) retries.add(`late ${stage.name} of job ${job.id}`, cleanUp, () => {}, 0);
    else await cleanUp().catch(() => {}); // the observer has the error
  }

  /**
   * The stages' table upside down: an undo starts when the undos of all that needed its stage are through, so that a
   * network is taken down before its namespace while the shim ends beside both. Where one fails, what it stood on is
   * kept (the record first of all), and the rest is undone all the same. Returns what failed.
   */
  async #undo<S extends JobState<R, C>, R, C>(
    { stages }: JobTable<S, R, C>,
    started: Set<Stage<S, R, C>>,
    row: R,
    ctx: C,
    job: JobRun,
  ): Promise<SluiceError | undefined> {
    const { observer, undoTimeoutMs } = this.#options;
    const failures: SluiceError[] = [];
    const undone = new Map<StageName, Promise<boolean>>();
    const undoStage = async (stage: Stage<S, R, C>): Promise<boolean> => {
      const above = stages.filter((other) => other.needs.includes(stage.name)).map((other) => undone.get(other.name));
      if ((await Promise.all(above)).includes(false)) return false;
      if (!stage.undo || !started.has(stage)) return true;
      observer.undoStarted(job, stage.name);
      try {
        await withLimit(undoTimeoutMs, () => stage.undo?.(row, ctx));
        observer.undoEnded(job, stage.name, undefined);
        return true;
      } catch (cause) {
        const error = stageError(stage.name, cause, 'undo of stage');
        failures.push(error);
        observer.undoEnded(job, stage.name, error);
        return false;
      }
    };
    for (const stage of stages.toReversed()) undone.set(stage.name, undoStage(stage));
    await Promise.all(undone.values());
    const [first] = failures;
    return first && new SluiceError(first.code, failures.map(explain).join('; '), { stage: first.stage });
  }
}

/** Names the stage in the error's chain and keeps the code of what went wrong in it. */
function stageError(stage: StageName, cause: unknown, what = 'stage'): SluiceError {
  return new SluiceError(codeOf(cause), `${what} ${stage}`, { cause, stage });
}

/** Calls `work`; what it throws at once becomes a rejection. */
async function start(work: () => Promise<void> | void): Promise<void> {
  await work();
}

/**
 * Stops waiting for `work` after `ms`. The work itself goes on; an undo is idempotent, so a second try does no harm.
 */
async function withLimit(ms: number, work: () => Promise<void> | void): Promise<void> {
  await withTimeLimit(Promise.resolve(work()), ms, () => {
    throw new SluiceError('TIMED_OUT', `no end within ${ms / 1000} s`);
  });
}
