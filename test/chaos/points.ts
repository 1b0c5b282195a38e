/** The points at which a storm ends the daemon, made of the tables of the jobs. */
import { JOB_TABLES } from '../../src/pipeline/jobs/tables/all.ts';
import type { JobName } from '../../src/stages.ts';
import type { KillPoint } from './kill-points.ts';

/** Before and after every stage and every undo of every job. */
export function tablePoints(): KillPoint[] {
  return JOB_TABLES.flatMap((table) =>
    table.stages.flatMap(({ name, undo }) => {
      const moments = ['stageStarted', 'stageEnded', ...(undo ? (['undoStarted', 'undoEnded'] as const) : [])] as const;
      return moments.map((moment) => ({ job: table.name, stage: name, moment, after: 0 }));
    }),
  );
}

/**
 * Where a daemon dies so that the next one undoes the whole job: the last stage has not recorded the job's end. Undos
 * of other jobs run in a failing call alone: a pull's record is in memory, and takedowns have none.
 */
export const BROKEN: Partial<Record<JobName, KillPoint>> = {
  RunPodSandbox: { job: 'RunPodSandbox', stage: 'ready', moment: 'stageStarted', after: 0 },
  CreateContainer: { job: 'CreateContainer', stage: 'ready', moment: 'stageStarted', after: 0 },
  StartContainer: { job: 'StartContainer', stage: 'start', moment: 'stageEnded', after: 0 },
};

const isUndo = ({ moment }: KillPoint) => moment === 'undoStarted' || moment === 'undoEnded';

/** All of {@link tablePoints}, those of undos twice where they can be: in a call that fails, and in a recovery. */
export function pointsAndRecoveries(): KillPoint[] {
  const points = tablePoints().map((point): KillPoint => ({ ...point, during: 'call' }));
  const later = points.filter((point) => isUndo(point) && BROKEN[point.job]);
  return [...points, ...later.map((point): KillPoint => ({ ...point, during: 'later' }))];
}

/** Points that no situation reaches, with the reason. A point that is missed and not among them is a failure. */
export const UNREACHABLE: (Pick<KillPoint, 'job' | 'stage' | 'moment' | 'during'> & { why: string })[] = [];
