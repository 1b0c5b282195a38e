/** A client of both CRI services, for the command line tool and the tests: each call as an async function. */
import { Client, credentials, Metadata, type MethodDefinition, type ServiceError } from '@grpc/grpc-js';
import { ImageServiceDefinition, RuntimeServiceDefinition } from '../../../proto/gen/cri.ts';
import { grpcService } from './service.ts';

const runtimeService = grpcService(RuntimeServiceDefinition);
const imageService = grpcService(ImageServiceDefinition);

type Services = typeof runtimeService & typeof imageService;
type Request<M> = M extends { requestDeserialize: (value: Buffer) => infer Q } ? Q : never;
type Response<M> = M extends { responseDeserialize: (value: Buffer) => infer S } ? S : never;
type UnaryName = { [K in keyof Services]: Services[K] extends { responseStream: false } ? K : never }[keyof Services];
type StreamName = Exclude<keyof Services, UnaryName>;

export interface CallOptions {
  /** Milliseconds; default 60 000. */
  timeoutMs?: number;
  signal?: AbortSignal;
}

/** Fields left out of a request have their protobuf defaults. */
export type Calls = {
  [K in UnaryName]: (request?: Partial<Request<Services[K]>>, options?: CallOptions) => Promise<Response<Services[K]>>;
};
export type Streams = {
  [K in StreamName]: (
    request?: Partial<Request<Services[K]>>,
    options?: CallOptions,
  ) => AsyncIterable<Response<Services[K]>>;
};

export type Cri = Calls & Streams & { close(): void } & Disposable;

/** Connects (lazily) to the CRI socket at `path`. Calls fail with grpc-js's ServiceError: `code`, `details`. */
export function connectCri(path: string): Cri {
  const client = new Client(`unix:${path}`, credentials.createInsecure(), {
    'grpc.max_receive_message_length': 16 << 20,
    'grpc.max_send_message_length': 16 << 20,
    // Two clients of two daemons that reuse one path must not share a connection.
    'grpc.use_local_subchannel_pool': 1,
    'grpc.initial_reconnect_backoff_ms': 50,
    'grpc.max_reconnect_backoff_ms': 200,
  });
  const calls: Record<string, unknown> = {};
  for (const [name, method] of Object.entries({ ...runtimeService, ...imageService })) {
    calls[name] = method.responseStream ? stream(client, widen(method)) : unary(client, widen(method));
  }
  const close = () => client.close();
  return { ...calls, close, [Symbol.dispose]: close } as Cri;
}

type AnyMethod = MethodDefinition<object, object>;

/** The definitions' types are contravariant in each request; callers are typed by {@link Cri} again. */
function widen(method: unknown): AnyMethod {
  return method as AnyMethod;
}

function complete(method: AnyMethod, request: object): object {
  return { ...method.requestDeserialize(Buffer.alloc(0)), ...request };
}

function unary(client: Client, method: AnyMethod) {
  return (request: object = {}, options: CallOptions = {}): Promise<object> =>
    new Promise((resolve, reject) => {
      const call = client.makeUnaryRequest(
        method.path,
        method.requestSerialize,
        method.responseDeserialize,
        complete(method, request),
        new Metadata(),
        { deadline: Date.now() + (options.timeoutMs ?? 60_000) },
        (error: ServiceError | null, response?: object) => {
          if (error || !response) reject(error ?? new Error(`${method.path} answered nothing`));
          else resolve(response);
        },
      );
      options.signal?.addEventListener('abort', () => call.cancel(), { once: true });
    });
}

function stream(client: Client, method: AnyMethod) {
  return async function* (request: object = {}, options: CallOptions = {}): AsyncIterable<object> {
    const call = client.makeServerStreamRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      complete(method, request),
      new Metadata(),
      { deadline: Date.now() + (options.timeoutMs ?? 60_000) },
    );
    options.signal?.addEventListener('abort', () => call.cancel(), { once: true });
    try {
      yield* call as AsyncIterable<object>;
    } finally {
      call.cancel();
    }
  };
}
