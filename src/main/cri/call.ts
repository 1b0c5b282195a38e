import type { ImageServiceDefinition, RuntimeServiceDefinition } from '../../../proto/gen/cri.ts';
import type { Encoded, GeneratedMethod, GeneratedService, RequestOf, ResponseOf } from '../../node/grpc/service.ts';
import type { Caller, CallerLeft } from '../../pipeline/engine/join.ts';

export type { CallerLeft };

/** What a verb may read of its call besides the request. */
export interface CallInfo extends Caller {
  /** RPC name, for example RunPodSandbox. */
  method: string;
  /** W3C trace context of the client, when it sent one. */
  traceparent?: string;
  /** Aborts when the client hangs up or its deadline passes. */
  left: AbortSignal;
}

/** A verb with one answer. */
type Unary<Request, Response> = (
  request: Request,
  call: CallInfo,
) => Promise<Response | Encoded<Response>> | Response | Encoded<Response>;

/** A verb that answers with a stream; the end of the iteration ends the call. */
type ServerStream<Request, Response> = (
  request: Request,
  call: CallInfo,
) => AsyncIterable<Response> | Iterable<Response>;

type Verb<M extends GeneratedMethod> = M['responseStream'] extends true
  ? ServerStream<RequestOf<M>, ResponseOf<M>>
  : Unary<RequestOf<M>, ResponseOf<M>>;

/**
 * One function for each method of a generated service, except those named by `Unimplemented`, which answer
 * UNIMPLEMENTED. A verb that is missing or misspelt, and one with another method's request or response, fails to
 * compile.
 */
export type Verbs<D extends GeneratedService, Unimplemented extends keyof D['methods'] = never> = {
  [K in Exclude<keyof D['methods'], Unimplemented>]: Verb<D['methods'][K]>;
};

/**
 * Checkpoints need CRIU and a format that runtimes share; neither kubelet's alpha call nor a user has asked for them
 * here.
 */
type Unimplemented = 'checkpointContainer' | 'checkpointPod' | 'restorePod';

export type RuntimeVerbs = Verbs<RuntimeServiceDefinition, Unimplemented>;
export type ImageVerbs = Verbs<ImageServiceDefinition>;

/** The `info` of an answer that was not asked to be verbose. */
export const noInfo = (): Record<string, string> => ({});

/** Items in one message of a list stream; a few hundred bytes each keep it far below 16 MiB. */
const BATCH = 1000;

/** Cuts a list into batches. An empty list is one empty batch, so that the client receives a message. */
export function* batches<T>(items: Iterable<T>, size = BATCH): Generator<T[]> {
  let batch: T[] = [];
  let any = false;
  for (const item of items) {
    batch.push(item);
    if (batch.length < size) continue;
    yield batch;
    any = true;
    batch = [];
  }
  if (batch.length > 0 || !any) yield batch;
}
