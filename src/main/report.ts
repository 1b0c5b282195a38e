import type { JobRecord } from '../node/observe/job-record.ts';
import { processUse, proportionalBytes } from '../node/observe/process-use.ts';
import { STAGE_NAMES } from '../stages.ts';
import type { Services } from './services.ts';

/** Rows of each list; a report of thousands of jobs would be cut off by whatever reads the log. */
const MOST = 100;

/**
 * What the daemon does at the moment, for the log (SIGUSR1): jobs and the stages they are in, queues, pools, shims,
 * pending clean-ups with their reasons, open handles and memory. Times are milliseconds.
 */
export async function reportOf(services: Services, running: readonly JobRecord[]) {
  const { admission, engine, pools, retries, shims, store } = services;
  const stages = STAGE_NAMES.map((stage) => [stage, engine.use(stage)] as const).filter(
    ([, use]) => use.running + use.queued > 0,
  );
  const kept = [
    ...[...store.sandboxes.values()].map((row) => ({ kind: 'sandbox', ...row })),
    ...[...store.containers.values()].map((row) => ({ kind: 'container', ...row })),
  ].flatMap(({ kind, id, name, cleanup }) => (cleanup ? [{ kind, id, name, ...cleanup }] : []));
  return {
    uptime: Math.round(process.uptime() * 1000),
    jobs: { count: running.length, oldest: running.slice(0, MOST).map(jobLine) },
    stages: Object.fromEntries(stages),
    queues: admission.use,
    pools: Object.fromEntries([pools.net, pools.shim, pools.image, pools.registry].map(({ name, use }) => [name, use])),
    cleanUps: { waiting: retries.pending, kept: kept.slice(0, MOST) },
    rows: { sandboxes: store.sandboxes.size, containers: store.containers.size, images: store.images.size },
    shims: shims.counts,
    handles: countBy(process.getActiveResourcesInfo()),
    memory: { proportional: await proportionalBytes(), ...process.memoryUsage() },
    descriptors: (await processUse()).openFds,
  };
}

function jobLine({ id, job, pod, container, image, at, started, stages, undos }: JobRecord) {
  const now = Date.now();
  return {
    id,
    job,
    pod,
    container,
    image,
    age: now - at,
    queued: started === undefined,
    stages: stages
      .filter(({ ended }) => ended === undefined)
      .map(({ stage, started: s }) => stageLine(stage, s, now - at)),
    undos: undos
      .filter(({ ended }) => ended === undefined)
      .map(({ stage, started: s }) => stageLine(stage, s, now - at)),
  };
}

/** "network for 1200 ms", or "network waits" for one that its limit keeps waiting. */
function stageLine(stage: string, started: number | undefined, age: number): string {
  return started === undefined ? `${stage} waits` : `${stage} for ${Math.round(age - started)} ms`;
}

function countBy(names: readonly string[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const name of names) counts[name] = (counts[name] ?? 0) + 1;
  return counts;
}
