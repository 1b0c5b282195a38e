import type { JobRecord, JobShape, StageRecord } from './job-record.ts';

/** One line of the chart. Times are milliseconds since the job was queued. */
export interface Bar {
  name: string;
  kind: 'stage' | 'undo' | 'admit';
  /** When all stages that it needs had ended; between `ready` and `from` it waits. */
  ready: number;
  from: number;
  to: number;
  /** Whether it has not ended yet. */
  running: boolean;
  error?: string;
  /** Of the stages that it needs, the one that ended last. */
  after?: string;
  /** Whether it is on the critical path, the chain of stages that determined the duration of the job. */
  critical: boolean;
}

/**
 * The bars of a job, in order of their start. `now` (milliseconds since the epoch) is the end of bars that still run.
 */
export function bars(record: JobRecord, shape: JobShape | undefined, now: number): Bar[] {
  const end = record.ended ?? now - record.at;
  const needs = new Map(shape?.stages.map((stage) => [stage.name, stage.needs]) ?? []);
  const byName = new Map<string, StageRecord>(record.stages.map((stage) => [stage.stage, stage]));
  const latest = (stage: string) => latestNeed(stage, needs, byName);
  const critical = criticalPath(record, latest);

  const all: Bar[] = [
    {
      name: 'admit',
      kind: 'admit',
      ready: 0,
      from: record.started ?? end,
      to: record.started ?? end,
      running: record.started === undefined && record.ended === undefined,
      critical: true,
    },
  ];
  for (const { stage, ready, started, ended, error } of record.stages) {
    all.push({
      name: stage,
      kind: 'stage',
      ready,
      from: started ?? end,
      to: ended ?? end,
      running: ended === undefined && record.ended === undefined,
      error,
      after: latest(stage),
      critical: critical.has(stage),
    });
  }
  for (const { stage, started, ended, error } of record.undos) {
    all.push({
      name: `undo ${stage}`,
      kind: 'undo',
      ready: started,
      from: started,
      to: ended ?? end,
      running: ended === undefined && record.ended === undefined,
      error,
      critical: false,
    });
  }
  return all;
}

/**
 * Of the stages that `stage` needs, the one that ended last. A stage that was skipped is replaced by those that it
 * needs.
 */
function latestNeed(
  stage: string,
  needs: ReadonlyMap<string, readonly string[]>,
  byName: ReadonlyMap<string, StageRecord>,
): string | undefined {
  let last: StageRecord | undefined;
  for (const need of needs.get(stage) ?? []) {
    const name = byName.has(need) ? need : latestNeed(need, needs, byName);
    const record = name === undefined ? undefined : byName.get(name);
    if (record?.ended !== undefined && record.ended > (last?.ended ?? -1)) last = record;
  }
  return last?.stage;
}

/** Names of the stages from the one that ended last back through the stage that each waited for. */
function criticalPath(record: JobRecord, latest: (stage: string) => string | undefined): Set<string> {
  let last: StageRecord | undefined;
  for (const stage of record.stages) {
    if ((stage.ended ?? Number.POSITIVE_INFINITY) >= (last?.ended ?? -1)) last = stage;
  }
  const path = new Set<string>();
  for (let name: string | undefined = last?.stage; name !== undefined && !path.has(name); name = latest(name))
    path.add(name);
  return path;
}

/** Formats milliseconds: 0.42 ms, 84.1 ms, 1.25 s, 62 s. */
export function duration(ms: number): string {
  if (ms < 10) return `${ms.toFixed(2)} ms`;
  if (ms < 1000) return `${ms.toFixed(1)} ms`;
  return ms < 60_000 ? `${(ms / 1000).toFixed(2)} s` : `${(ms / 1000).toFixed(0)} s`;
}

/** Replaces control characters, so that pod names and messages of plugins cannot control the terminal. */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what it replaces
  return text.replace(/[\x00-\x1f\x7f-\x9f]+/g, ' ');
}
