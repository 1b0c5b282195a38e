import type { Caller, CallerLeft } from '../../pipeline/engine/join.ts';

/** What a verb may know of its call besides the request. */
export interface CallInfo extends Caller {
  /** RPC name, for example RunPodSandbox. */
  method: string;
  /** W3C trace context of the client, when it sent one. */
  traceparent?: string;
  /** Aborts when the client hangs up or its deadline passes. */
  left: AbortSignal;
}

export type { CallerLeft };

/** A CRI verb with one answer. Each file in this folder makes one from the node it serves. */
export type Unary<Request, Response> = (request: Request, call: CallInfo) => Promise<Response> | Response;

/** A CRI verb that answers with a stream; ending the iteration ends the call. */
export type ServerStream<Request, Response> = (
  request: Request,
  call: CallInfo,
) => AsyncIterable<Response> | Iterable<Response>;

/** The `info` of an answer that was not asked to be verbose. */
export const noInfo = (): Record<string, string> => ({});
