/** A client of the daemon's socket for the command line: CRI's image calls, and Sluice's own. */
import { Client, credentials, Metadata, type MethodDefinition, type ServiceError, status } from '@grpc/grpc-js';
import { ImageServiceDefinition } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import { type GeneratedService, grpcService, type RequestOf, type ResponseOf } from '../../node/grpc/service.ts';
import { ImagesDefinition } from './image-service.ts';

const MAX_MESSAGE = 16 << 20;
const UNARY_MS = 120_000;

type Methods<D extends GeneratedService> = D['methods'];
type Calls<D extends GeneratedService> = {
  [K in keyof Methods<D>]: Methods<D>[K]['responseStream'] extends true
    ? (request: Partial<RequestOf<Methods<D>[K]>>) => AsyncIterable<ResponseOf<Methods<D>[K]>>
    : (request: Partial<RequestOf<Methods<D>[K]>>) => Promise<ResponseOf<Methods<D>[K]>>;
};

export interface SocketClient extends Disposable {
  cri: Calls<typeof ImageServiceDefinition>;
  images: Calls<typeof ImagesDefinition>;
}

/**
 * Connects to the socket of a daemon; calls throw NOT_READY when no daemon answers there, IMAGE_NOT_FOUND or
 * INVALID_REQUEST when it says so, else an Error, each with the daemon's words.
 */
export function connectSocket(socket: string): SocketClient {
  const client = new Client(`unix:${socket}`, credentials.createInsecure(), {
    'grpc.max_receive_message_length': MAX_MESSAGE,
    'grpc.max_send_message_length': MAX_MESSAGE,
  });
  const calls = <D extends GeneratedService>(definition: D): Calls<D> => {
    const entries = Object.entries(grpcService(definition)).map(([key, method]) => [
      key,
      method.responseStream
        ? (request: object) => stream(client, socket, method as AnyMethod, request)
        : (request: object) => unary(client, socket, method as AnyMethod, request),
    ]);
    return Object.fromEntries(entries) as Calls<D>;
  };
  return {
    cri: calls(ImageServiceDefinition),
    images: calls(ImagesDefinition),
    [Symbol.dispose]: () => client.close(),
  };
}

type AnyMethod = MethodDefinition<object, object>;

const complete = (method: AnyMethod, request: object) => ({
  ...method.requestDeserialize(Buffer.alloc(0)),
  ...request,
});

function unary(client: Client, socket: string, method: AnyMethod, request: object): Promise<object> {
  const deadline = Date.now() + UNARY_MS;
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      complete(method, request),
      new Metadata(),
      { deadline },
      (error: ServiceError | null, response?: object) => {
        if (error || !response) reject(failure(socket, error));
        else resolve(response);
      },
    );
  });
}

async function* stream(client: Client, socket: string, method: AnyMethod, request: object): AsyncGenerator<object> {
  const call = client.makeServerStreamRequest(
    method.path,
    method.requestSerialize,
    method.responseDeserialize,
    complete(method, request),
  );
  try {
    for await (const message of call) yield message as object;
  } catch (error) {
    throw failure(socket, error as ServiceError);
  } finally {
    call.cancel();
  }
}

function failure(socket: string, error: ServiceError | null): Error {
  const isAbsent =
    error?.code === status.UNAVAILABLE && /No connection established|ENOENT|ECONNREFUSED/.test(error.details);
  if (isAbsent) return new SluiceError('NOT_READY', `no daemon answers at ${socket}`);
  const words = error?.details ?? 'the daemon has sent nothing';
  if (error?.code === status.NOT_FOUND) return new SluiceError('IMAGE_NOT_FOUND', words);
  if (error?.code === status.INVALID_ARGUMENT) return new SluiceError('INVALID_REQUEST', words);
  return new Error(words);
}
