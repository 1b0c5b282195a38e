/** Clients of gRPC services on unix sockets: each method as an async function. */
import { Client, credentials, Metadata, type MethodDefinition, type ServiceError } from '@grpc/grpc-js';

export interface CallOptions {
  /** Milliseconds; default 60 000. */
  timeoutMs?: number;
  signal?: AbortSignal;
}

type Methods = Readonly<Record<string, object>>;
type Request<M> = M extends { requestDeserialize: (value: Buffer) => infer Q } ? Q : never;
type Response<M> = M extends { responseDeserialize: (value: Buffer) => infer S } ? S : never;
type UnaryName<S> = { [K in keyof S]: S[K] extends { responseStream: false } ? K : never }[keyof S];
type StreamName<S> = Exclude<keyof S, UnaryName<S>>;

/** Fields left out of a request have their protobuf defaults. */
export type Calls<S> = {
  [K in UnaryName<S>]: (request?: Partial<Request<S[K]>>, options?: CallOptions) => Promise<Response<S[K]>>;
};
export type Streams<S> = {
  [K in StreamName<S>]: (request?: Partial<Request<S[K]>>, options?: CallOptions) => AsyncIterable<Response<S[K]>>;
};

export type ServiceClient<S> = Calls<S> & Streams<S> & { close(): void } & Disposable;

const LIMIT = 16 << 20;

/**
 * Connects (lazily) to the socket at `path`, with `headers` in every call. Calls fail with grpc-js's ServiceError:
 * `code`, `details`.
 */
export function connectService<S extends Methods>(
  path: string,
  methods: S,
  headers: Record<string, string> = {},
): ServiceClient<S> {
  const client = new Client(`unix:${path}`, credentials.createInsecure(), {
    'grpc.max_receive_message_length': LIMIT,
    'grpc.max_send_message_length': LIMIT,
    // Two clients of two daemons that reuse one path must not share a connection.
    'grpc.use_local_subchannel_pool': 1,
    'grpc.initial_reconnect_backoff_ms': 50,
    'grpc.max_reconnect_backoff_ms': 200,
  });
  const caller: Caller = { client, headers };
  const calls: Record<string, unknown> = {};
  for (const [name, method] of Object.entries(methods)) {
    // The definitions' types are contravariant in each request; callers are typed by ServiceClient again.
    const any = method as AnyMethod;
    calls[name] = any.responseStream ? stream(caller, any) : unary(caller, any);
  }
  const close = () => client.close();
  return { ...calls, close, [Symbol.dispose]: close } as ServiceClient<S>;
}

interface Caller {
  client: Client;
  headers: Record<string, string>;
}

type AnyMethod = MethodDefinition<object, object>;

function complete(method: AnyMethod, request: object): object {
  return { ...method.requestDeserialize(Buffer.alloc(0)), ...request };
}

function metadataOf(headers: Record<string, string>): Metadata {
  const metadata = new Metadata();
  for (const [name, value] of Object.entries(headers)) metadata.set(name, value);
  return metadata;
}

const deadline = ({ timeoutMs = 60_000 }: CallOptions) => ({ deadline: Date.now() + timeoutMs });

function unary({ client, headers }: Caller, method: AnyMethod) {
  return (request: object = {}, options: CallOptions = {}): Promise<object> =>
    new Promise((resolve, reject) => {
      const call = client.makeUnaryRequest(
        method.path,
        method.requestSerialize,
        method.responseDeserialize,
        complete(method, request),
        metadataOf(headers),
        deadline(options),
        (error: ServiceError | null, response?: object) => {
          if (error || !response) reject(error ?? new Error(`${method.path} answered nothing`));
          else resolve(response);
        },
      );
      options.signal?.addEventListener('abort', () => call.cancel(), { once: true });
    });
}

function stream({ client, headers }: Caller, method: AnyMethod) {
  return async function* (request: object = {}, options: CallOptions = {}): AsyncIterable<object> {
    const call = client.makeServerStreamRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      complete(method, request),
      metadataOf(headers),
      deadline(options),
    );
    options.signal?.addEventListener('abort', () => call.cancel(), { once: true });
    try {
      yield* call as AsyncIterable<object>;
    } finally {
      call.cancel();
    }
  };
}
