/**
 * Preloaded into a daemon (NODE_OPTIONS=--import) by the kill storm: the daemon ends itself by SIGKILL when a job
 * reaches the point that the environment variable SLUICE_KILL_POINT names. Observers are called before and after each
 * stage and each undo, so the patch of their class reaches every one of them, and the daemon has no code of its own for
 * it.
 */
import { isMainThread } from 'node:worker_threads';
import type { Observer as ObserverClass } from '../../src/node/observe/observer.ts';
import type { JobName, StageName } from '../../src/stages.ts';

export const POINT_VARIABLE = 'SLUICE_KILL_POINT';

/** The calls of the observer at which a daemon can be ended. */
export const MOMENTS = ['stageStarted', 'stageEnded', 'undoStarted', 'undoEnded'] as const;

export interface KillPoint {
  job: JobName;
  stage: StageName;
  moment: (typeof MOMENTS)[number];
  /** The daemon goes on this many times before it ends, so that other jobs are under way by then. */
  after: number;
}

/** Options of Node that make a daemon end at the point. */
export function killAt(point: KillPoint | undefined): NodeJS.ProcessEnv {
  if (!point) return { NODE_OPTIONS: undefined, [POINT_VARIABLE]: undefined };
  return { NODE_OPTIONS: `--import=${import.meta.url}`, [POINT_VARIABLE]: JSON.stringify(point) };
}

const wanted = process.env[POINT_VARIABLE];
// Workers inherit the option, and have no observer.
if (isMainThread && wanted) {
  const point = JSON.parse(wanted) as KillPoint;
  const { Observer } = await import('../../src/node/observe/observer.ts');
  let left = point.after;
  const observed = Observer.prototype[point.moment] as (this: ObserverClass, ...args: unknown[]) => void;
  Object.assign(Observer.prototype, {
    [point.moment](this: ObserverClass, run: { job: string }, stage: string, ...rest: unknown[]) {
      if (run.job === point.job && stage === point.stage && left-- <= 0) process.kill(process.pid, 'SIGKILL');
      observed.call(this, run, stage, ...rest);
    },
  });
}
