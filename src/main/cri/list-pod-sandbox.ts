import type {
  ListPodSandboxRequest,
  ListPodSandboxResponse,
  PodSandbox,
  PodSandboxFilter,
  StreamPodSandboxesRequest,
  StreamPodSandboxesResponse,
} from '../../../proto/gen/cri.ts';
import { batches } from './batches.ts';
import type { ServerStream, Unary } from './call.ts';
import { matchesSandbox } from './filters.ts';
import { sandboxState, toPodSandbox, visible } from './sandbox-view.ts';
import type { CriServices as Node } from './services.ts';

export const listPodSandbox =
  (node: Node): Unary<ListPodSandboxRequest, ListPodSandboxResponse> =>
  ({ filter }) => ({ items: [...matching(node, filter)] });

/** The same in batches, for nodes whose list outgrows one message (KEP-5825). */
export const streamPodSandboxes = (node: Node): ServerStream<StreamPodSandboxesRequest, StreamPodSandboxesResponse> =>
  async function* ({ filter }) {
    for (const podSandboxes of batches(matching(node, filter))) yield { podSandboxes };
  };

function* matching(node: Node, filter: PodSandboxFilter | undefined): Generator<PodSandbox> {
  for (const row of node.store.sandboxes.values()) {
    if (!visible(row)) continue;
    const facts = { id: row.id, labels: row.config.labels, state: sandboxState(row) };
    if (matchesSandbox(filter, facts)) yield toPodSandbox(row);
  }
}
