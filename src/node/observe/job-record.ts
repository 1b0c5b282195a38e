/** What is recorded of a job: by the pipeline while it runs, by metrics, logs, spans and `sluice trace` afterwards. */
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
  /** When all that it needs was done. */
  ready: number;
  /** When its limit had room; absent while it waits, or when another stage failed first. */
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

/** One job as `sluice trace`, the log line, the spans and the debug endpoint show it. */
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
  /** Further callers that joined it. */
  joined: number;
  stages: StageRecord[];
  undos: UndoRecord[];
  /** 32 hex digits, when spans are made for it. */
  traceId?: string;
}
