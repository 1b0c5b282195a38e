import type { JobName, StageName } from '../../stages.ts';

/**
 * What every job has while it runs: the recorded row of its pod, container or image, and the services its stages use.
 * `C` is the type of those services; the engine passes them on and uses none.
 */
export interface JobState<R, C> {
  ctx: C;
  row: R;
}

/**
 * One stage of a job. An undo gets the row and the services, and nothing else of the job, so that the same function
 * serves a failed launch, a removal and the recovery after `kill -9`.
 */
export interface Stage<S extends JobState<R, C>, R, C> {
  name: StageName;
  /** Starts as soon as these are done; none: at once. */
  needs: readonly StageName[];
  /** True when this job does without the stage (a pod on the host network has no namespace). What needs it goes on. */
  skip?: (state: S) => boolean;
  run: (state: S) => Promise<void> | void;
  /** Seconds that this job's caller adds to the stage's time limit: a container's grace period. */
  extraSeconds?: (state: S) => number;
  /** Takes back whatever `run` may have done, in full or in part, or not at all; idempotent. */
  undo?: (row: R, ctx: C) => Promise<void> | void;
}

/** A job as a table of its stages, each after those it needs. */
export interface JobTable<S extends JobState<R, C>, R, C> {
  name: JobName;
  stages: readonly Stage<S, R, C>[];
}

/** Checks a table once, when it is made: names are unique, needs come first. */
export function jobTable<S extends JobState<R, C>, R, C>(
  name: JobName,
  stages: readonly Stage<S, R, C>[],
): JobTable<S, R, C> {
  const seen = new Set<StageName>();
  for (const stage of stages) {
    for (const need of stage.needs) {
      if (!seen.has(need)) throw new Error(`${name}: stage ${stage.name} needs ${need}, which does not come before it`);
    }
    if (seen.has(stage.name)) throw new Error(`${name}: stage ${stage.name} is there twice`);
    seen.add(stage.name);
  }
  return { name, stages };
}

/**
 * The job that takes down what `table` builds: each undo as a stage of its own, in the opposite order. Stages without
 * an undo drop out, and what needed them waits for what they needed. `renamed` gives a stage the name of what its undo
 * does.
 */
export function takeDown<S extends JobState<R, C>, R, C>(
  name: JobName,
  table: JobTable<S, R, C>,
  renamed: Partial<Record<StageName, StageName>>,
): JobTable<JobState<R, C>, R, C> {
  const builtOn = (stage: Stage<S, R, C>): Stage<S, R, C>[] =>
    table.stages
      .filter((other) => other.needs.includes(stage.name))
      .flatMap((other) => (other.undo ? [other] : builtOn(other)));
  const label = (stage: StageName) => renamed[stage] ?? stage;
  return jobTable(
    name,
    table.stages.toReversed().flatMap((stage) => {
      const { undo } = stage;
      if (!undo) return [];
      const needs = [...new Set(builtOn(stage).map((other) => label(other.name)))];
      return [{ name: label(stage.name), needs, run: ({ row, ctx }: JobState<R, C>) => undo(row, ctx) }];
    }),
  );
}

/**
 * The value of an optional field of a job's state that an earlier stage sets. Throws when the table's `needs` lack that
 * stage.
 */
export function required<T>(value: T | undefined, what: string): T {
  if (value === undefined) throw new Error(`the stage that makes the ${what} has not run`);
  return value;
}
