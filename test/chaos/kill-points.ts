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
  /** Only jobs of this pod ("namespace/name") or image. */
  of?: string;
  /** Milliseconds from there to the end: it comes in the midst of the stage or undo. */
  delayMs?: number;
  /** `call`: in a job that a CRI call asked for; `later`: in a recovery or a clean-up. Left out: in any. */
  during?: 'call' | 'later';
}

/** A stage that fails, in jobs of one pod, when it has done its work. Its undo finds all that it made. */
export interface Failing extends Pick<KillPoint, 'job' | 'stage' | 'of'> {}

interface Wanted {
  point?: KillPoint;
  failing?: Failing;
}

/** Options of Node that make a daemon end at the point, and a stage fail. */
export function killAt(point: KillPoint | undefined, failing?: Failing): NodeJS.ProcessEnv {
  if (!point && !failing) return { NODE_OPTIONS: undefined, [POINT_VARIABLE]: undefined };
  const wanted: Wanted = { point, failing };
  return { NODE_OPTIONS: `--import=${import.meta.url}`, [POINT_VARIABLE]: JSON.stringify(wanted) };
}

interface Run {
  job: string;
  origin?: string;
  pod?: string;
  image?: string;
}

const variable = process.env[POINT_VARIABLE];
// Workers inherit the option, and have no observer.
if (isMainThread && variable) {
  const { point, failing } = JSON.parse(variable) as Wanted;
  const { Observer } = await import('../../src/node/observe/observer.ts');
  const patch = (moment: KillPoint['moment'], before: (run: Run, stage: string, error: unknown) => void) => {
    const observed = Observer.prototype[moment] as (this: ObserverClass, ...args: unknown[]) => void;
    Object.assign(Observer.prototype, {
      [moment](this: ObserverClass, run: Run, stage: string, ...rest: unknown[]) {
        before(run, stage, rest[0]);
        observed.call(this, run, stage, ...rest);
      },
    });
  };
  const is = ({ job, stage, of }: Failing, run: Run, at: string) =>
    run.job === job && at === stage && (of === undefined || run.pod === of || run.image === of);
  if (point) {
    let left = point.after;
    const { during } = point;
    const inTime = ({ origin = 'call' }: Run) => during === undefined || (during === 'call') === (origin === 'call');
    const end = () => process.kill(process.pid, 'SIGKILL');
    patch(point.moment, (run, stage) => {
      if (!is(point, run, stage) || !inTime(run) || left-- > 0) return;
      if (point.delayMs === undefined) end();
      else setTimeout(end, point.delayMs);
    });
  }
  if (failing) {
    // The engine takes what is thrown at the end of a stage for the stage's own failure.
    patch('stageEnded', (run, stage, error) => {
      if (error === undefined && is(failing, run, stage)) throw new Error('the storm lets this stage fail');
    });
  }
}
