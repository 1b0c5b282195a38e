import type {
  ContainerStatsFilter,
  ContainerStatsRequest,
  ContainerStatsResponse,
  ListContainerStatsRequest,
  ListContainerStatsResponse,
  StreamContainerStatsRequest,
  StreamContainerStatsResponse,
} from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import { batches } from './batches.ts';
import type { ServerStream, Unary } from './call.ts';
import { matchesContainerStats } from './filters.ts';
import type { CriServices as Node } from './services.ts';
import { containerSubject, isRunning } from './stats-subjects.ts';

/** Containers in one worker call of a stream. */
const BATCH = 200;

export const containerStats =
  (node: Node): Unary<ContainerStatsRequest, ContainerStatsResponse> =>
  async ({ containerId }) => {
    const { row } = await node.containers.running(containerId);
    const [stats] = await node.stats.containers([containerSubject(node, row)]);
    if (!stats) throw new SluiceError('NOT_READY', `container ${row.id} has just ended`);
    return { stats };
  };

export const listContainerStats =
  (node: Node): Unary<ListContainerStatsRequest, ListContainerStatsResponse> =>
  async ({ filter }) => ({ stats: await node.stats.containers(subjects(node, filter)) });

export const streamContainerStats = (
  node: Node,
): ServerStream<StreamContainerStatsRequest, StreamContainerStatsResponse> =>
  async function* ({ filter }) {
    for (const batch of batches(subjects(node, filter), BATCH)) {
      yield { containerStats: await node.stats.containers(batch) };
    }
  };

function subjects(node: Node, filter: ContainerStatsFilter | undefined) {
  return [...node.store.containers.values()]
    .filter(isRunning)
    .filter((row) => matchesContainerStats(filter, { id: row.id, sandbox: row.sandbox, labels: row.config.labels }))
    .map((row) => containerSubject(node, row));
}
