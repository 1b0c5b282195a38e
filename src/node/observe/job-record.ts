/**
 * The record of a job. The pipeline fills it while the job runs; metrics, logs, spans and `sluice trace` are made from
 * it.
 */
import type { JobName, PoolName, StageName } from '../../stages.ts';

export interface JobStart {
  job: JobName;
  /** Why it runs: a CRI call, the daemon's start, or a retried clean-up. Only calls count in the job metrics. */
  origin?: 'call' | 'recovery' | 'cleanup';
  /** "namespace/name" of the pod; for containers that of the pod they are in; absent for image pulls. */
  pod?: string;
  /** Sandbox id. */
  sandbox?: string;
  /** Container id. */
  container?: string;
  /** Image reference, for pulls. */
  image?: string;
  /** W3C traceparent header of the caller. */
  traceparent?: string;
}

/** A job in flight, as the observer made it: the handle for every later call. */
export interface JobRun extends JobStart {
  /** Request id: 16 hex digits, on every log line and in `sluice trace`. */
  readonly id: string;
}

/** One stage of one job. Times are milliseconds since the job was queued. */
export interface StageRecord {
  stage: StageName;
  pool: PoolName;
  /** When all stages that it needs had ended. */
  ready: number;
  /** When the limit of the stage let it start; absent while it waits, and when another stage failed before. */
  started?: number;
  ended?: number;
  error?: string;
}

export interface UndoRecord {
  stage: StageName;
  started: number;
  ended?: number;
  error?: string;
}

/** One job, in the form of /debug/launches. */
export interface JobRecord extends JobStart {
  id: string;
  /** When it was queued: milliseconds since the epoch. */
  at: number;
  /** When it was admitted, and when it was over: milliseconds since it was queued. */
  started?: number;
  ended?: number;
  outcome?: 'ok' | 'error';
  /** Code of the table in src/errors.ts. */
  code?: string;
  error?: string;
  /** Number of further callers that joined it. */
  joined: number;
  stages: StageRecord[];
  undos: UndoRecord[];
  /** 32 hex digits; undefined when no spans are made for the job. */
  traceId?: string;
}

/** End of an ended job, in milliseconds since the epoch. */
export const endOf = ({ at, ended = 0 }: JobRecord): number => at + ended;

/** A job's stages and their dependencies, from its table. */
export interface JobShape {
  name: JobName;
  stages: readonly { name: StageName; needs: readonly StageName[] }[];
}
