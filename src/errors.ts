/**
 * The one table of errors: for each code the gRPC status it becomes, its meaning to the user, and the text of those
 * errors that are thrown in several places. docs/operate/errors.md is generated from it. Every layer throws from this
 * table, so it imports nothing.
 */

/** gRPC status codes, as numbers, so that only who speaks gRPC needs the gRPC library. */
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

/**
 * What kubelet looks for at the beginning of an error's text, to show it as the reason of a container that waits
 * (k8s.io/cri-api/pkg/errors). src/main/cri/server.ts writes it out.
 */
export type KubeletReason =
  | 'RegistryUnavailable'
  | 'SignatureValidationFailed'
  | 'RROUnsupported'
  | 'ImageVolumeMountFailed';

interface ErrorKind {
  status: number;
  meaning: string;
  /** The message, from what is particular to the case. Makes {@link SluiceError.of} available for the code. */
  text?: (...details: never[]) => string;
  /** The reason of every error of this code. */
  kubeletReason?: KubeletReason;
}

export const ERRORS = {
  INVALID_REQUEST: {
    status: GRPC.INVALID_ARGUMENT,
    meaning: 'The request lacks a field or asks for something impossible; a retry fails alike.',
  },
  UNKNOWN_RUNTIME: {
    status: GRPC.INVALID_ARGUMENT,
    meaning: 'The runtime handler is not in the configuration.',
    text: (runtime: string) => `the runtime "${runtime}" is not configured any more`,
  },
  SANDBOX_NOT_FOUND: {
    status: GRPC.NOT_FOUND,
    meaning: 'No pod has this id.',
    text: (id: string) => `no pod sandbox has the id "${id}"`,
  },
  CONTAINER_NOT_FOUND: {
    status: GRPC.NOT_FOUND,
    meaning: 'No container has this id.',
    text: (id: string) => `no container has the id "${id}"`,
  },
  IMAGE_NOT_FOUND: {
    status: GRPC.NOT_FOUND,
    meaning: 'The image is neither on the node nor in the registry.',
    text: (image: string) => `image "${image}" is not on this node`,
  },
  SERVICE_NOT_FOUND: {
    status: GRPC.NOT_FOUND,
    meaning: 'A health check asks for a gRPC service that the daemon does not have.',
    text: (service: string) => `there is no service "${service}"`,
  },
  NAME_TAKEN: {
    status: GRPC.ALREADY_EXISTS,
    meaning: 'A pod or container with the same name, namespace, uid and attempt exists.',
    text: (kind: 'sandbox' | 'container', name: string, owner: string) =>
      `the ${kind} name "${name}" belongs to ${owner}`,
  },
  NOT_READY: {
    status: GRPC.FAILED_PRECONDITION,
    meaning: 'The pod or container is not in the state that the call needs.',
    text: (kind: 'pod' | 'container', id: string, wanted: 'ready' | 'running', state: string) =>
      `${kind} ${id} is not ${wanted} (${state})`,
  },
  QUEUE_FULL: { status: GRPC.RESOURCE_EXHAUSTED, meaning: 'As many jobs wait as are allowed to; try again later.' },
  CALLER_GONE: { status: GRPC.CANCELLED, meaning: 'The caller hung up while the job was queued; nothing was done.' },
  DEADLINE_PASSED: {
    status: GRPC.DEADLINE_EXCEEDED,
    meaning: 'The caller’s deadline passed while the job was queued; nothing was done.',
  },
  TIMED_OUT: { status: GRPC.DEADLINE_EXCEEDED, meaning: 'A stage took longer than its own time limit and was ended.' },
  SHUTTING_DOWN: { status: GRPC.UNAVAILABLE, meaning: 'The daemon is ending and takes no new jobs.' },
  STARTING: { status: GRPC.UNAVAILABLE, meaning: 'The daemon has not recovered its pods yet.' },
  NETWORK_NOT_READY: {
    status: GRPC.FAILED_PRECONDITION,
    meaning: 'There is no usable CNI configuration; pods on the host network still work.',
  },
  CNI_FAILED: {
    status: GRPC.INTERNAL,
    meaning: 'A CNI plugin failed, is missing, or printed something other than a CNI result.',
  },
  NAMESPACE_FAILED: { status: GRPC.INTERNAL, meaning: 'The kernel refused a namespace, mount or similar.' },
  SNAPSHOTTER_FAILED: {
    status: GRPC.INTERNAL,
    meaning: 'The snapshotter of `images.snapshotter_socket` does not answer, or refuses.',
  },
  REGISTRY_UNAVAILABLE: {
    status: GRPC.UNAVAILABLE,
    meaning: 'No registry host answered; a later pull may succeed.',
    kubeletReason: 'RegistryUnavailable',
  },
  REGISTRY_DENIED: { status: GRPC.FAILED_PRECONDITION, meaning: 'The registry wants other credentials.' },
  SIGNATURE_INVALID: {
    status: GRPC.FAILED_PRECONDITION,
    meaning: 'The image is not signed as the signature policy demands.',
    kubeletReason: 'SignatureValidationFailed',
  },
  IMAGE_INVALID: { status: GRPC.FAILED_PRECONDITION, meaning: 'The image breaks its own digests, or the format.' },
  DISK_FULL: { status: GRPC.RESOURCE_EXHAUSTED, meaning: 'The disk, or the inodes of it, are used up.' },
  SHIM_FAILED: { status: GRPC.INTERNAL, meaning: 'The shim did not start, died, or does not answer.' },
  RUNTIME_FAILED: { status: GRPC.INTERNAL, meaning: 'The OCI runtime (runc, crun) refused; its own message follows.' },
  CONFIG_INVALID: { status: GRPC.FAILED_PRECONDITION, meaning: 'The configuration has mistakes; they are named.' },
  UNIMPLEMENTED: { status: GRPC.UNIMPLEMENTED, meaning: 'Sluice does not have this call.' },
  INTERNAL: { status: GRPC.INTERNAL, meaning: 'A bug in Sluice; please report it with the log.' },
} as const satisfies Record<string, ErrorKind>;

export type ErrorCode = keyof typeof ERRORS;

/** The codes whose text is in the table, with what the text is made from. */
type TextDetails<C extends ErrorCode> = (typeof ERRORS)[C] extends { text: (...details: infer D) => string }
  ? D
  : never;

export interface SluiceErrorOptions {
  cause?: unknown;
  stage?: string;
  kubeletReason?: KubeletReason;
}

/**
 * An error whose code is in {@link ERRORS}. Wrap with `cause` at each stage: the chain reads as a path (see
 * {@link explain}).
 */
export class SluiceError extends Error {
  override readonly name = 'SluiceError';
  readonly code: ErrorCode;
  /** The pipeline stage that failed; the engine sets it. */
  stage?: string;
  /** Plain data for whoever catches the error, for example the runs of CNI plugins; crosses from a worker to main. */
  details?: unknown;
  /** Set where kubelet gives a reason of its own to a case of a broader code. */
  kubeletReason?: KubeletReason;

  constructor(code: ErrorCode, message: string, options: SluiceErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.stage = options.stage;
    this.kubeletReason = options.kubeletReason;
  }

  /**
   * An error of which thousands are made in a second: it has no stack, whose collection costs more than all else of a
   * refused call.
   */
  static withoutStack(code: ErrorCode, message: string): SluiceError {
    const limit = Error.stackTraceLimit;
    Error.stackTraceLimit = 0;
    try {
      return new SluiceError(code, message);
    } finally {
      Error.stackTraceLimit = limit;
    }
  }

  /** An error with the table's own text: `SluiceError.of('SANDBOX_NOT_FOUND', id)`. */
  static of<C extends ErrorCode>(code: C, ...details: TextDetails<C>): SluiceError {
    const { text } = ERRORS[code] as { text?: (...details: unknown[]) => string };
    return new SluiceError(code, text?.(...details) ?? code);
  }
}

/** The error as plain data, to cross from a worker to main (structured clone drops classes and their fields). */
export interface PlainError {
  code: ErrorCode;
  message: string;
  stage?: string;
  details?: unknown;
  kubeletReason?: KubeletReason;
  /** The causes as one text: the chain reads the same on the other side. */
  cause?: string;
  stack?: string;
}

/**
 * An error and its causes in one line: `network: plugin bridge failed: no such bridge`. A cause whose text its parent
 * contains is left out.
 */
export function explain(error: unknown): string {
  const parts: string[] = [];
  for (let e: unknown = error; e !== undefined && e !== null; e = e instanceof Error ? e.cause : undefined) {
    const text = e instanceof Error ? messageOf(e) : String(e);
    if (text !== '' && !parts.some((part) => part.includes(text))) parts.push(text);
  }
  return parts.join(': ');
}

/** The nearest code in the chain; but DISK_FULL as soon as any error in it is ENOSPC, EDQUOT or SQLITE_FULL. */
export function codeOf(error: unknown): ErrorCode {
  for (let e: unknown = error; e instanceof Error; e = e.cause) {
    if (isOutOfSpace(e) || isSqliteFull(e)) return 'DISK_FULL';
  }
  for (let e: unknown = error; e instanceof Error; e = e.cause) if (e instanceof SluiceError) return e.code;
  return 'INTERNAL';
}

/** The code for a file of the configuration that cannot be used because of `cause`. */
export function unusable(cause: unknown): 'TIMED_OUT' | 'CONFIG_INVALID' {
  return codeOf(cause) === 'TIMED_OUT' ? 'TIMED_OUT' : 'CONFIG_INVALID';
}

/** The reason that kubelet looks for: the nearest one set in the chain, or else that of the error's code. */
export function kubeletReasonOf(error: unknown): KubeletReason | undefined {
  const kind: ErrorKind = ERRORS[codeOf(error)];
  return reasonInChain(error) ?? kind.kubeletReason;
}

function reasonInChain(error: unknown): KubeletReason | undefined {
  for (let e: unknown = error; e instanceof Error; e = e.cause) {
    if (e instanceof SluiceError && e.kubeletReason) return e.kubeletReason;
  }
  return undefined;
}

/** EDQUOT as Node gives it: libuv has no name for it and says "UNKNOWN: unknown error". */
const UV_EDQUOT = -122;

const isQuota = (error: Error): boolean => (error as NodeJS.ErrnoException).errno === UV_EDQUOT;

const messageOf = (error: Error): string =>
  isQuota(error) ? error.message.replace('UNKNOWN: unknown error', 'EDQUOT: disk quota exceeded') : error.message;

/** The file system, or the quota on it, has no room. */
export function isOutOfSpace(error: Error): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === 'ENOSPC' || code === 'EDQUOT' || isQuota(error);
}

const SQLITE_FULL = 13;

/** SQLITE_FULL: the error of node:sqlite for a database that cannot grow. */
export const isSqliteFull = (error: unknown): boolean => (error as { errcode?: number }).errcode === SQLITE_FULL;

export function toPlain(error: unknown): PlainError {
  const top = error instanceof Error ? error : new Error(String(error));
  return {
    code: codeOf(error),
    message: messageOf(top),
    stage: error instanceof SluiceError ? error.stage : undefined,
    details: error instanceof SluiceError ? error.details : undefined,
    kubeletReason: reasonInChain(error),
    cause: top.cause === undefined ? undefined : explain(top.cause),
    stack: top.stack,
  };
}

export function fromPlain(plain: PlainError): SluiceError {
  const error = new SluiceError(plain.code, plain.message, {
    cause: plain.cause === undefined ? undefined : new Error(plain.cause),
    stage: plain.stage,
    kubeletReason: plain.kubeletReason,
  });
  if (plain.stack) error.stack = plain.stack;
  if (plain.details !== undefined) error.details = plain.details;
  return error;
}
