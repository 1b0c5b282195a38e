import type { Observability } from '../node/observe/observability.ts';
import type { Node } from '../pipeline/jobs/context.ts';

/** Tells the metrics where to look when Prometheus asks: nothing is counted twice, nothing is pushed. */
export function watchNode(node: Node, { metrics }: Observability): void {
  metrics.watch({
    stage: (stage) => node.engine.use(stage),
    lanes: () => node.admission.use,
    laneQueueLimit: node.config.pipeline.max_queued,
    pools: () => [node.pools.net, node.pools.shim, node.pools.image, node.pools.registry],
    pods: () => countBy(node.store.sandboxes.values()),
    containers: () => countBy(node.store.containers.values()),
    shims: () => {
      const { alive, lost, unknown } = node.shims.counts;
      return { ready: alive, dead: lost, unknown };
    },
    images: () => node.store.images.size,
    imagePullsRunning: () => node.pulls.running,
    cleanupsPending: () => node.cleaner.pending,
    networkReady: () => node.network.current() !== undefined,
    stdio: () => node.stdio.stats(),
    eventSubscribers: () => node.events.subscribers,
  });
}

function countBy<S extends string>(rows: Iterable<{ state: S }>): Partial<Record<S, number>> {
  const counts: Partial<Record<S, number>> = {};
  for (const { state } of rows) counts[state] = (counts[state] ?? 0) + 1;
  return counts;
}
