/**
 * The one table of errors. Each code says what it means to the user and which gRPC status it becomes; docs/errors.md is
 * checked against it. It stands beside main, pipeline and workers because all three throw from it and it imports nothing.
 */

/** gRPC status codes, as numbers, so that nothing outside cri/ needs the gRPC library. */
export const GRPC = {
  CANCELLED: 1,
  UNKNOWN: 2,
  INVALID_ARGUMENT: 3,
  DEADLINE_EXCEEDED: 4,
  NOT_FOUND: 5,
  ALREADY_EXISTS: 6,
  RESOURCE_EXHAUSTED: 8,
  FAILED_PRECONDITION: 9,
  UNIMPLEMENTED: 12,
  INTERNAL: 13,
  UNAVAILABLE: 14,
} as const;

interface ErrorKind {
  status: number;
  meaning: string;
}

export const ERRORS = {
  INVALID_REQUEST: {
    status: GRPC.INVALID_ARGUMENT,
    meaning: 'The request lacks a field or asks for something impossible; a retry fails alike.',
  },
  UNKNOWN_RUNTIME: { status: GRPC.INVALID_ARGUMENT, meaning: 'The runtime handler is not in the configuration.' },
  SANDBOX_NOT_FOUND: { status: GRPC.NOT_FOUND, meaning: 'No pod has this id.' },
  CONTAINER_NOT_FOUND: { status: GRPC.NOT_FOUND, meaning: 'No container has this id.' },
  IMAGE_NOT_FOUND: { status: GRPC.NOT_FOUND, meaning: 'The image is neither on the node nor in the registry.' },
  NAME_TAKEN: {
    status: GRPC.ALREADY_EXISTS,
    meaning: 'A pod or container with the same name, namespace, uid and attempt exists.',
  },
  NOT_READY: {
    status: GRPC.FAILED_PRECONDITION,
    meaning: 'The pod or container is not in the state that the call needs.',
  },
  QUEUE_FULL: { status: GRPC.RESOURCE_EXHAUSTED, meaning: 'As many jobs wait as are allowed to; try again later.' },
  CALLER_GONE: { status: GRPC.CANCELLED, meaning: 'The caller hung up while the job was queued; nothing was done.' },
  DEADLINE_PASSED: {
    status: GRPC.DEADLINE_EXCEEDED,
    meaning: 'The caller’s deadline passed while the job was queued; nothing was done.',
  },
  TIMED_OUT: { status: GRPC.DEADLINE_EXCEEDED, meaning: 'A step took longer than its own time limit and was ended.' },
  SHUTTING_DOWN: { status: GRPC.UNAVAILABLE, meaning: 'The daemon is ending and takes no new jobs.' },
  STARTING: { status: GRPC.UNAVAILABLE, meaning: 'The daemon is still finding its pods again.' },
  NETWORK_NOT_READY: {
    status: GRPC.FAILED_PRECONDITION,
    meaning: 'There is no usable CNI configuration; pods on the host network still work.',
  },
  CNI_FAILED: {
    status: GRPC.INTERNAL,
    meaning: 'A CNI plugin failed, is missing, or printed something that is no result.',
  },
  NAMESPACE_FAILED: { status: GRPC.INTERNAL, meaning: 'The kernel refused a namespace, mount or similar.' },
  REGISTRY_UNAVAILABLE: { status: GRPC.UNAVAILABLE, meaning: 'No registry host answered; a later pull may succeed.' },
  REGISTRY_DENIED: { status: GRPC.FAILED_PRECONDITION, meaning: 'The registry wants other credentials.' },
  IMAGE_INVALID: { status: GRPC.FAILED_PRECONDITION, meaning: 'The image breaks its own digests, or the format.' },
  DISK_FULL: { status: GRPC.RESOURCE_EXHAUSTED, meaning: 'The disk, or the inodes of it, are used up.' },
  SHIM_FAILED: { status: GRPC.INTERNAL, meaning: 'The shim did not start, died, or does not answer.' },
  RUNTIME_FAILED: { status: GRPC.INTERNAL, meaning: 'The OCI runtime (runc, crun) refused; its own message follows.' },
  CONFIG_INVALID: { status: GRPC.FAILED_PRECONDITION, meaning: 'The configuration has mistakes; they are named.' },
  UNIMPLEMENTED: { status: GRPC.UNIMPLEMENTED, meaning: 'Sluice does not have this call.' },
  INTERNAL: { status: GRPC.INTERNAL, meaning: 'A bug in Sluice; please report it with the log.' },
} as const satisfies Record<string, ErrorKind>;

export type ErrorCode = keyof typeof ERRORS;

/** An error whose code is in {@link ERRORS}. Wrap with `cause` at each step: the chain reads as a path (see {@link explain}). */
export class SluiceError extends Error {
  override readonly name = 'SluiceError';
  readonly code: ErrorCode;
  /** The pipeline stage in which it happened, once the engine knows it. */
  stage?: string;
  /** Plain data for whoever catches it (the CNI plugins that ran, say); crosses from a worker to main. */
  details?: unknown;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown; stage?: string }) {
    super(message, options?.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.stage = options?.stage;
  }
}

/** The error as plain data, to cross from a worker to main (structured clone drops classes and their fields). */
export interface PlainError {
  code: ErrorCode;
  message: string;
  stage?: string;
  details?: unknown;
  /** What lies below, as text: the chain reads the same on the other side. */
  cause?: string;
  stack?: string;
}

/** An error and its causes in one line: `network: plugin bridge failed: no such bridge`. A cause that repeats its parent is left out. */
export function explain(error: unknown): string {
  const parts: string[] = [];
  for (let e: unknown = error; e !== undefined && e !== null; e = e instanceof Error ? e.cause : undefined) {
    const text = e instanceof Error ? e.message : String(e);
    if (text !== '' && !parts.some((part) => part.includes(text))) parts.push(text);
  }
  return parts.join(': ');
}

/** The nearest code in the chain; errors of the disk being full are recognised wherever they come from. */
export function codeOf(error: unknown): ErrorCode {
  for (let e: unknown = error; e instanceof Error; e = e.cause) {
    const code = (e as NodeJS.ErrnoException).code;
    if (code === 'ENOSPC' || code === 'EDQUOT' || isSqliteFull(e)) return 'DISK_FULL';
  }
  for (let e: unknown = error; e instanceof Error; e = e.cause) if (e instanceof SluiceError) return e.code;
  return 'INTERNAL';
}

const SQLITE_FULL = 13;

/** node:sqlite's error for a database that cannot grow. */
export const isSqliteFull = (error: unknown): boolean => (error as { errcode?: number }).errcode === SQLITE_FULL;

export function toPlain(error: unknown): PlainError {
  const top = error instanceof Error ? error : new Error(String(error));
  return {
    code: codeOf(error),
    message: top.message,
    stage: error instanceof SluiceError ? error.stage : undefined,
    details: error instanceof SluiceError ? error.details : undefined,
    cause: top.cause === undefined ? undefined : explain(top.cause),
    stack: top.stack,
  };
}

export function fromPlain(plain: PlainError): SluiceError {
  const error = new SluiceError(plain.code, plain.message, {
    cause: plain.cause === undefined ? undefined : new Error(plain.cause),
    stage: plain.stage,
  });
  if (plain.stack) error.stack = plain.stack;
  if (plain.details !== undefined) error.details = plain.details;
  return error;
}
