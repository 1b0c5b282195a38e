/** The verb of life cycle events (evented PLEG). */
import { type ContainerEventResponse, ContainerEventType } from '../../../proto/gen/cri.ts';
import type { LifecycleEvent } from '../../node/store/events.ts';
import type { RuntimeVerbs } from './call.ts';
import type { CriServices } from './services.ts';
import { toContainerStatus, toPodSandboxStatus } from './views.ts';

const TYPES = {
  created: ContainerEventType.CONTAINER_CREATED_EVENT,
  started: ContainerEventType.CONTAINER_STARTED_EVENT,
  stopped: ContainerEventType.CONTAINER_STOPPED_EVENT,
  deleted: ContainerEventType.CONTAINER_DELETED_EVENT,
} as const satisfies Record<LifecycleEvent['type'], ContainerEventType>;

type EventServices = Pick<CriServices, 'events' | 'store' | 'images'>;

export const eventVerbs = (services: EventServices) =>
  ({
    /** Events until the client leaves. The statuses are those at the time of sending. */
    async *getContainerEvents(_request, { left }) {
      for await (const event of services.events.subscribe(left)) yield response(services, event);
    },
  }) satisfies Partial<RuntimeVerbs>;

function response({ store, images }: EventServices, event: LifecycleEvent): ContainerEventResponse {
  const { type, containerId, sandboxId, at } = event;
  const sandbox = store.sandboxes.get(sandboxId);
  return {
    containerId,
    containerEventType: TYPES[type],
    createdAt: at,
    podSandboxStatus: sandbox && toPodSandboxStatus(sandbox),
    containersStatuses: sandbox ? store.containersOf(sandboxId).map((row) => toContainerStatus(images, row)) : [],
  };
}
