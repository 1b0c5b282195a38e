import { once } from 'node:events';
import { chmodSync, mkdirSync, rmSync } from 'node:fs';
import { connect, createServer, type Server as NetServer } from 'node:net';
import { dirname } from 'node:path';
import {
  type handleServerStreamingCall,
  type handleUnaryCall,
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type ServerWritableStream,
  type ServiceDefinition,
  status,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { codeOf, ERRORS, explain, SluiceError } from '../../errors.ts';
import type { CallerLeft, CallInfo, ServerStream, Unary } from './call.ts';

/** Messages either way: kubelet's own limit, and what containerd takes. */
const MAX_MESSAGE = 16 << 20;

/** Texts that kubelet tests with a prefix match (k8s.io/cri-api/pkg/errors), and which a path of stages must not hide. */
const KUBELET_PREFIXES = [
  'RegistryUnavailable',
  'SignatureValidationFailed',
  'RROUnsupported',
  'ImageVolumeMountFailed',
];

// biome-ignore lint/suspicious/noExplicitAny: each verb has its own request and response; the service definition pairs them
export type Verbs = { unary: Record<string, Unary<any, any>>; streams: Record<string, ServerStream<any, any>> };

export interface CriServerOptions {
  socket: string;
  /** A descriptor that listens already, at whatever path: systemd's, which goes on listening when this server ends. */
  listener?: number;
  services: { definition: ServiceDefinition; verbs: Verbs }[];
  /** Each call when it ends: RPC name, gRPC status number, seconds. */
  onCall?: (method: string, code: number, seconds: number) => void;
  onError?: (method: string, error: unknown) => void;
}

/** The gRPC front end on a unix socket that only root can open. Methods without a verb answer UNIMPLEMENTED by themselves. */
export class CriServer implements AsyncDisposable {
  readonly #server = new Server({
    'grpc.max_receive_message_length': MAX_MESSAGE,
    'grpc.max_send_message_length': MAX_MESSAGE,
  });
  readonly #options: CriServerOptions;
  #listener: NetServer | undefined;

  constructor(options: CriServerOptions) {
    this.#options = options;
    for (const { definition, verbs } of options.services) {
      const handlers: UntypedServiceImplementation = {};
      for (const [name, verb] of Object.entries(verbs.unary))
        handlers[name] = this.#unary(rpcName(definition, name), verb);
      for (const [name, verb] of Object.entries(verbs.streams))
        handlers[name] = this.#stream(rpcName(definition, name), verb);
      this.#server.addService(definition, handlers);
    }
  }

  /** Binds the socket with mode 0600. A socket that a dead daemon left is replaced; one that answers is an error. */
  async listen(): Promise<void> {
    const { socket, listener } = this.#options;
    if (listener !== undefined) return this.#listenOn(listener);
    mkdirSync(dirname(socket), { recursive: true, mode: 0o711 });
    if (await answers(socket)) throw new SluiceError('INVALID_REQUEST', `another daemon listens on ${socket}`);
    rmSync(socket, { force: true });
    const mask = process.umask(0o177);
    try {
      await new Promise<void>((resolve, reject) => {
        this.#server.bindAsync(`unix:${socket}`, ServerCredentials.createInsecure(), (error) =>
          error ? reject(error) : resolve(),
        );
      });
    } finally {
      process.umask(mask);
    }
    chmodSync(socket, 0o600);
  }

  /** grpc-js binds by address only; connections that were accepted elsewhere are handed to it one by one. */
  async #listenOn(fd: number): Promise<void> {
    const injector = this.#server.createConnectionInjector(ServerCredentials.createInsecure());
    this.#listener = createServer((connection) => injector.injectConnection(connection));
    this.#listener.listen({ fd });
    await once(this.#listener, 'listening');
  }

  /** Stops taking calls, waits for the running ones, and cuts what is left (endless streams) after `graceMs`. */
  async close(graceMs: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#listener?.close(); // who connects from now on waits in the socket's queue for the next daemon
    this.#server.tryShutdown(() => resolve());
    const timer = setTimeout(() => {
      this.#server.forceShutdown();
      resolve();
    }, graceMs);
    await promise;
    clearTimeout(timer);
    if (this.#options.listener === undefined) rmSync(this.#options.socket, { force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close(0);
  }

  #unary(method: string, verb: Unary<unknown, unknown>): handleUnaryCall<unknown, unknown> {
    return (call, callback) => {
      const ended = this.#began(method);
      Promise.try(() => verb(call.request, callInfo(method, call))).then(
        (response) => {
          ended(status.OK);
          callback(null, response);
        },
        (error: unknown) => {
          const failure = this.#failure(method, error);
          ended(failure.code);
          callback(failure, null);
        },
      );
    };
  }

  #stream(method: string, verb: ServerStream<unknown, unknown>): handleServerStreamingCall<unknown, unknown> {
    return async (call) => {
      const ended = this.#began(method);
      const info = callInfo(method, call);
      try {
        for await (const message of verb(call.request, info)) {
          if (info.left.aborted) break;
          if (!call.write(message)) await drained(call, info.left);
        }
        ended(status.OK);
        call.end();
      } catch (error) {
        const failure = this.#failure(method, error);
        ended(failure.code);
        call.destroy(Object.assign(new Error(failure.details), failure));
      }
    };
  }

  #began(method: string): (code: number) => void {
    const began = performance.now();
    return (code) => this.#options.onCall?.(method, code, (performance.now() - began) / 1000);
  }

  #failure(method: string, error: unknown): { code: number; details: string } {
    this.#options.onError?.(method, error);
    return { code: ERRORS[codeOf(error)].status, details: kubeletText(error) };
  }
}

/** The error's chain as one line, led by what kubelet looks for at the start when it is somewhere in it. */
export function kubeletText(error: unknown): string {
  const text = explain(error);
  for (const prefix of KUBELET_PREFIXES) {
    const at = text.indexOf(prefix);
    if (at > 0) return `${text.slice(at)} (${text.slice(0, at).replace(/[:\s]+$/, '')})`;
  }
  return text;
}

function rpcName(definition: ServiceDefinition, verb: string): string {
  const path = definition[verb]?.path;
  if (!path) throw new Error(`the service has no method for the verb ${verb}`);
  return path.slice(path.lastIndexOf('/') + 1);
}

function callInfo(
  method: string,
  call: ServerUnaryCall<unknown, unknown> | ServerWritableStream<unknown, unknown>,
): CallInfo {
  const left = new AbortController();
  call.on('cancelled', () => {
    const deadline = call.getDeadline();
    const late = Number(deadline instanceof Date ? deadline.getTime() : deadline) <= Date.now();
    left.abort((late ? 'deadline' : 'cancelled') satisfies CallerLeft);
  });
  const traceparent = call.metadata.get('traceparent')[0];
  return { method, left: left.signal, traceparent: typeof traceparent === 'string' ? traceparent : undefined };
}

/** Waits until a slow client has taken what was written, or is gone. */
function drained(call: ServerWritableStream<unknown, unknown>, left: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      call.off('drain', done);
      left.removeEventListener('abort', done);
      resolve();
    };
    call.once('drain', done);
    left.addEventListener('abort', done, { once: true });
  });
}

function answers(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(socket);
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', () => resolve(false));
  });
}
