import type { PendingCleanup, PodView } from '../node/observe/metrics.ts';
import { podsByShim } from '../pipeline/jobs/shared-shims.ts';
import type { Services } from './services.ts';

/**
 * Names the sources of the gauges, which are read when Prometheus scrapes: nothing is counted twice, nothing is pushed.
 */
export function readGauges(services: Services): void {
  const { engine, admission, locks, config, pools, store, shims, pulls, retries, network, stdio, events } = services;
  services.metrics.readFrom({
    stage: (stage) => engine.use(stage),
    lanes: () => admission.use,
    locksWaiting: () => locks.waiting,
    laneQueueLimit: () => config.pipeline.max_queued,
    pools: () => [pools.net, pools.shim, pools.image, pools.registry, pools.store],
    pods: () => countBy(store.sandboxes.values()),
    containers: () => countBy(store.containers.values()),
    shims: () => {
      const { alive, lost, unknown } = shims.counts;
      return { ready: alive, dead: lost, unknown };
    },
    images: () => store.images.size,
    imagePullsRunning: () => pulls.running,
    cleanupsPending: () => retries.pending,
    cleanups: () => pendingCleanups(services),
    storePending: () => store.pendingWrites,
    networkReady: () => network.current() !== undefined,
    stdio: () => stdio.stats(),
    eventSubscribers: () => events.subscribers,
    refused: () => admission.refused,
    shimUses: () => podsByShim(services),
    podViews: () => podViews(services),
  });
}

function pendingCleanups({ store }: Services): PendingCleanup[] {
  const pods = [...store.sandboxes.values()].flatMap(({ id, cleanup, config: { metadata } }) =>
    cleanup ? [{ what: `pod ${metadata?.namespace}/${metadata?.name}`, id, ...cleanup }] : [],
  );
  const containers = [...store.containers.values()].flatMap(({ id, cleanup, taskKept, config: { metadata } }) => {
    const why = cleanup ?? (taskKept === undefined ? undefined : { failed: taskKept, attempts: 0 });
    return why ? [{ what: `container ${metadata?.name}`, id, ...why }] : [];
  });
  return [...pods, ...containers];
}

function podViews({ store }: Services): PodView[] {
  const containers = Map.groupBy(store.containers.values(), ({ sandbox }) => sandbox);
  return [...store.sandboxes.values()]
    .map(({ id, config: { metadata }, state, createdAt, runtime, addresses, cleanup }) => ({
      id,
      pod: `${metadata?.namespace ?? ''}/${metadata?.name ?? ''}`,
      state,
      createdAt: Number(createdAt / 1_000_000n),
      runtime,
      addresses,
      containers: countBy(containers.get(id) ?? []),
      cleanup,
    }))
    .sort((a, b) => b.createdAt - a.createdAt);
}

function countBy<S extends string>(rows: Iterable<{ state: S }>): Partial<Record<S, number>> {
  const counts: Partial<Record<S, number>> = {};
  for (const { state } of rows) counts[state] = (counts[state] ?? 0) + 1;
  return counts;
}
