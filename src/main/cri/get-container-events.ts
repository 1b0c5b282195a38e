import { type ContainerEventResponse, ContainerEventType, type GetEventsRequest } from '../../../proto/gen/cri.ts';
import type { LifecycleEvent } from '../../node/store/events.ts';
import type { ServerStream } from './call.ts';
import { toContainerStatus } from './container-view.ts';
import { toPodSandboxStatus } from './sandbox-view.ts';
import type { CriServices as Node } from './services.ts';

const TYPES = {
  created: ContainerEventType.CONTAINER_CREATED_EVENT,
  started: ContainerEventType.CONTAINER_STARTED_EVENT,
  stopped: ContainerEventType.CONTAINER_STOPPED_EVENT,
  deleted: ContainerEventType.CONTAINER_DELETED_EVENT,
} as const;

/** Life cycle events until the client leaves. The statuses are of the moment the event is sent, and only built when it is. */
export const getContainerEvents = (node: Node): ServerStream<GetEventsRequest, ContainerEventResponse> =>
  async function* (_request, { left }) {
    for await (const event of node.events.subscribe(left)) yield response(node, event);
  };

function response(node: Node, { type, containerId, sandboxId, at }: LifecycleEvent): ContainerEventResponse {
  const sandbox = node.store.sandboxes.get(sandboxId);
  return {
    containerId,
    containerEventType: TYPES[type],
    createdAt: at,
    podSandboxStatus: sandbox && toPodSandboxStatus(sandbox),
    containersStatuses: sandbox ? node.store.containersOf(sandboxId).map((row) => toContainerStatus(node, row)) : [],
  };
}
