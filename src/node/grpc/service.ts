import type { MethodDefinition } from '@grpc/grpc-js';

/** A message type in the generated code. */
interface Codec {
  encode(message: object): { finish(): Uint8Array };
  decode(bytes: Uint8Array): object;
}

/** A method in the generated code: its two message types and which sides are streams. */
export interface GeneratedMethod {
  /** As on the wire: RunPodSandbox. */
  readonly name: string;
  readonly requestType: Codec;
  readonly responseType: Codec;
  readonly requestStream: boolean;
  readonly responseStream: boolean;
}

/** A service in the generated code (ts-proto's generic definitions, which do not load gRPC). */
export interface GeneratedService {
  /** As on the wire: runtime.v1.RuntimeService. */
  readonly fullName: string;
  /** By name in camelCase: runPodSandbox. */
  readonly methods: Readonly<Record<string, GeneratedMethod>>;
}

export type RequestOf<M extends GeneratedMethod> = ReturnType<M['requestType']['decode']>;
export type ResponseOf<M extends GeneratedMethod> = ReturnType<M['responseType']['decode']>;

/**
 * A response that is encoded already, in pieces and between other work: one of megabytes, encoded in one go, blocks the
 * event loop for tens of milliseconds.
 */
export class Encoded<Response> {
  readonly bytes: Buffer;
  /** Never set: it keeps the bytes of one message type from being taken for those of another. */
  declare readonly of: Response;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }
}

/** The service as grpc-js wants it. */
export type GrpcService<D extends GeneratedService> = {
  [K in keyof D['methods']]: MethodDefinition<RequestOf<D['methods'][K]>, ResponseOf<D['methods'][K]>> & {
    requestStream: D['methods'][K]['requestStream'];
    responseStream: D['methods'][K]['responseStream'];
  };
};

/** Paths and codecs for grpc-js from a generated service; a response may also be {@link Encoded}. */
export function grpcService<D extends GeneratedService>(service: D): GrpcService<D> {
  const methods = Object.entries(service.methods).map(([key, method]) => [key, grpcMethod(service.fullName, method)]);
  return Object.fromEntries(methods) as GrpcService<D>;
}

function grpcMethod(serviceName: string, method: GeneratedMethod): MethodDefinition<object, object> {
  const { requestType, responseType, requestStream, responseStream } = method;
  return {
    path: `/${serviceName}/${method.name}`,
    requestStream,
    responseStream,
    requestSerialize: (request) => asBuffer(requestType.encode(request).finish()),
    requestDeserialize: (bytes) => requestType.decode(bytes),
    responseSerialize: (response) =>
      response instanceof Encoded ? response.bytes : asBuffer(responseType.encode(response).finish()),
    responseDeserialize: (bytes) => responseType.decode(bytes),
  };
}

/** The same bytes, not a copy. */
const asBuffer = (bytes: Uint8Array) => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
