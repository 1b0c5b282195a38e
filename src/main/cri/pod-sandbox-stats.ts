import type {
  ListPodSandboxStatsRequest,
  ListPodSandboxStatsResponse,
  PodSandboxStatsFilter,
  PodSandboxStatsRequest,
  PodSandboxStatsResponse,
  StreamPodSandboxStatsRequest,
  StreamPodSandboxStatsResponse,
} from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import { batches } from './batches.ts';
import type { ServerStream, Unary } from './call.ts';
import { matchesSandboxStats } from './filters.ts';
import type { CriServices as Node } from './services.ts';
import { podSubject } from './stats-subjects.ts';

/** Pods in one worker call of a stream. */
const BATCH = 100;

export const podSandboxStats =
  (node: Node): Unary<PodSandboxStatsRequest, PodSandboxStatsResponse> =>
  async ({ podSandboxId }) => {
    const row = node.store.sandboxes.find(podSandboxId);
    if (!row) throw new SluiceError('SANDBOX_NOT_FOUND', `no pod sandbox has the id "${podSandboxId}"`);
    if (row.state !== 'ready') throw new SluiceError('NOT_READY', `pod ${row.id} is not ready`);
    const [stats] = await node.stats.pods([podSubject(node, row)]);
    if (!stats) throw new SluiceError('NOT_READY', `nothing can be read about pod ${row.id} any more`);
    return { stats };
  };

export const listPodSandboxStats =
  (node: Node): Unary<ListPodSandboxStatsRequest, ListPodSandboxStatsResponse> =>
  async ({ filter }) => ({ stats: await node.stats.pods(subjects(node, filter)) });

export const streamPodSandboxStats = (
  node: Node,
): ServerStream<StreamPodSandboxStatsRequest, StreamPodSandboxStatsResponse> =>
  async function* ({ filter }) {
    for (const batch of batches(subjects(node, filter), BATCH)) {
      yield { podSandboxStats: await node.stats.pods(batch) };
    }
  };

function subjects(node: Node, filter: PodSandboxStatsFilter | undefined) {
  return [...node.store.sandboxes.values()]
    .filter((row) => row.state === 'ready' && matchesSandboxStats(filter, { id: row.id, labels: row.config.labels }))
    .map((row) => podSubject(node, row));
}
