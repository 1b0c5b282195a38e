import type {
  Container,
  ContainerFilter,
  ListContainersRequest,
  ListContainersResponse,
  StreamContainersRequest,
  StreamContainersResponse,
} from '../../../proto/gen/cri.ts';
import { batches } from './batches.ts';
import type { ServerStream, Unary } from './call.ts';
import { containerState, toContainer, visibleContainer } from './container-view.ts';
import { matchesContainer } from './filters.ts';
import type { CriServices as Node } from './services.ts';

export const listContainers =
  (node: Node): Unary<ListContainersRequest, ListContainersResponse> =>
  ({ filter }) => ({ containers: [...matching(node, filter)] });

/** The same in batches (KEP-5825). */
export const streamContainers = (node: Node): ServerStream<StreamContainersRequest, StreamContainersResponse> =>
  async function* ({ filter }) {
    for (const containers of batches(matching(node, filter))) yield { containers };
  };

function* matching(node: Node, filter: ContainerFilter | undefined): Generator<Container> {
  for (const row of node.store.containers.values()) {
    if (!visibleContainer(row)) continue;
    const facts = { id: row.id, sandbox: row.sandbox, labels: row.config.labels, state: containerState(row) };
    if (matchesContainer(filter, facts)) yield toContainer(row);
  }
}
