import type { JobName, PoolName, StageName } from '../../stages.ts';
import type { Node } from '../jobs/context.ts';

/** What every job knows while it runs: the node it works on and the recorded row of its pod, container or image. */
export interface JobState<R> {
  node: Node;
  row: R;
}

/**
 * One stage of a job. An undo sees the row and nothing else of the job, so that the same function serves a failed launch, a
 * removal and the recovery after `kill -9`.
 */
export interface Stage<S extends JobState<R>, R> {
  name: StageName;
  /** Starts as soon as these are done; none: at once. */
  needs: readonly StageName[];
  pool: PoolName;
  /** Not for this job (a pod on the host network has no namespace). What needs it goes on. */
  skip?: (state: S) => boolean;
  run: (state: S) => Promise<void> | void;
  /** Takes back whatever `run` may have done, in full or in part, or not at all; idempotent. */
  undo?: (row: R, node: Node) => Promise<void> | void;
}

/** A job as a table of its stages, each after those it needs. */
export interface JobTable<S extends JobState<R>, R> {
  name: JobName;
  stages: readonly Stage<S, R>[];
}

/** Checks a table once, when it is made: names are unique, needs come first. */
export function jobTable<S extends JobState<R>, R>(name: JobName, stages: readonly Stage<S, R>[]): JobTable<S, R> {
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
 * The job that takes down what `table` builds: each undo as a stage of its own, in the opposite order. Stages without an undo
 * drop out, and what needed them waits for what they needed. `renamed` gives a stage the name of what its undo does.
 */
export function takeDown<S extends JobState<R>, R>(
  name: JobName,
  table: JobTable<S, R>,
  renamed: Partial<Record<StageName, StageName>>,
): JobTable<JobState<R>, R> {
  const builtOn = (stage: Stage<S, R>): Stage<S, R>[] =>
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
      return [
        { name: label(stage.name), needs, pool: stage.pool, run: ({ row, node }: JobState<R>) => undo(row, node) },
      ];
    }),
  );
}
