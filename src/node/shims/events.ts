/**
 * Events that shims publish. A shim may send an event twice and drops it after five failed attempts, so no state
 * depends on events alone: exits come from Task.Wait, and only the reason OOMKilled is taken from here.
 */
import {
  TaskCheckpointed,
  TaskCreate,
  TaskDelete,
  TaskExecAdded,
  TaskExecStarted,
  TaskExit,
  TaskOOM,
  TaskPaused,
  TaskResumed,
  TaskStart,
} from '../../../proto/gen/events.ts';
import { ForwardRequest } from '../../../proto/gen/events_ttrpc.ts';
import { Empty } from '../../../proto/gen/google/protobuf/empty.ts';
import { nanoseconds } from './task.ts';
import { TtrpcServer } from './ttrpc-server.ts';

const MESSAGES = {
  TaskCreate,
  TaskStart,
  TaskExit,
  TaskDelete,
  TaskOOM,
  TaskExecAdded,
  TaskExecStarted,
  TaskPaused,
  TaskResumed,
  TaskCheckpointed,
} as const;

type Messages = typeof MESSAGES;

/**
 * One event: `kind` is the message's name, `event` the message, `at` nanoseconds since the epoch by the shim's clock.
 */
export type ShimEvent = {
  [K in keyof Messages]: { kind: K; namespace: string; at: bigint; event: ReturnType<Messages[K]['decode']> };
}[keyof Messages];

export interface EventsOptions {
  /** Path of the unix socket; shims receive it as TTRPC_ADDRESS. */
  path: string;
  onEvent: (event: ShimEvent) => void;
  onError: (error: Error) => void;
}

/**
 * Serves containerd.services.events.ttrpc.v1.Events at `path`. Shims keep the path that they were started with and
 * connect to the next daemon at the same path, so it must not change between starts of the daemon.
 */
export function serveEvents({ path, onEvent, onError }: EventsOptions): Promise<TtrpcServer> {
  return TtrpcServer.listen({
    path,
    onError,
    methods: {
      'containerd.services.events.ttrpc.v1.Events/Forward': (payload) => {
        const event = decodeEvent(payload);
        if (event) onEvent(event);
        return Empty.encode({}).finish();
      },
    },
  });
}

/**
 * Decodes the event of a ForwardRequest; undefined for a kind outside the list above. Throws when it cannot be decoded.
 */
export function decodeEvent(payload: Uint8Array): ShimEvent | undefined {
  const { envelope } = ForwardRequest.decode(payload);
  if (!envelope?.event) return undefined;
  // The URL is "containerd.events.TaskOOM"; some libraries put "type.googleapis.com/" in front.
  const kind = envelope.event.typeUrl.slice(envelope.event.typeUrl.lastIndexOf('.') + 1);
  if (!Object.hasOwn(MESSAGES, kind)) return undefined;
  const event = MESSAGES[kind as keyof Messages].decode(envelope.event.value);
  return { kind, namespace: envelope.namespace, at: nanoseconds(envelope.timestamp), event } as ShimEvent;
}
