import { once } from 'node:events';
import { chmodSync, mkdirSync, rmSync } from 'node:fs';
import { connect, createServer, type Server as NetServer, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type handleServerStreamingCall,
  type handleUnaryCall,
  ServerCredentials,
  type ServerUnaryCall,
  type ServerWritableStream,
  status,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { codeOf, ERRORS, explain, kubeletReasonOf, SluiceError } from '../../errors.ts';
import { type GeneratedService, grpcService } from '../../node/grpc/service.ts';
import { JOBS, type JobName } from '../../stages.ts';
import { acceptAuthority } from './authority.ts';
import type { CallerLeft, CallInfo } from './call.ts';
import { TurnedServer } from './turned-server.ts';
import { Turns } from './turns.ts';

/** Bytes of a message in either direction: kubelet's own limit, and containerd's. */
const MAX_MESSAGE = 16 << 20;
/** Milliseconds in which a client that has connected sends its first request, at the end of the server. */
const FIRST_REQUEST_MS = 1000;
const SETTLE_MS = 20;

/** A verb without its types, which the mapped types of call.ts have checked. */
type AnyVerb = (request: never, call: CallInfo) => unknown;

export interface CriServerOptions {
  socket: string;
  /** A descriptor that listens already, at whatever path: systemd's, which goes on listening when this server ends. */
  listener?: number;
  services: { definition: GeneratedService; verbs: Readonly<Record<string, AnyVerb>> }[];
  /** Each call when it ends: RPC name, gRPC status number, seconds. */
  onCall?: (method: string, code: number, seconds: number) => void;
  onError?: (method: string, error: unknown) => void;
}

/**
 * The gRPC front end on a unix socket that only root can open. grpc-js answers UNIMPLEMENTED for methods without a
 * verb.
 */
export class CriServer implements AsyncDisposable {
  readonly #server: TurnedServer;
  readonly #turns = new Turns();
  readonly #options: CriServerOptions;
  #listener: NetServer | undefined;
  /** Connections that have not sent a request yet. */
  readonly #unserved = new Set<Socket>();
  readonly #served = new Set<Socket>();

  constructor(options: CriServerOptions) {
    this.#options = options;
    const launches = new Set<string>();
    this.#server = new TurnedServer(
      { 'grpc.max_receive_message_length': MAX_MESSAGE, 'grpc.max_send_message_length': MAX_MESSAGE },
      {
        turns: this.#turns,
        launches: ({ path }) => launches.has(path),
        onEnded: ({ path }, code, seconds) => options.onCall?.(path.slice(path.lastIndexOf('/') + 1), code, seconds),
      },
    );
    for (const { definition, verbs } of options.services) {
      const handlers: UntypedServiceImplementation = {};
      for (const [key, { name, responseStream }] of Object.entries(definition.methods)) {
        const verb = verbs[key];
        if (name in JOBS && JOBS[name as JobName].lane !== 'teardown') launches.add(`/${definition.fullName}/${name}`);
        if (verb) handlers[key] = responseStream ? this.#stream(name, verb) : this.#unary(name, verb);
      }
      this.#server.addService(grpcService(definition), handlers);
    }
  }

  /**
   * Binds the socket with mode 0600. A socket that a dead daemon left is replaced. Throws INVALID_REQUEST for one that
   * answers.
   */
  async listen(): Promise<void> {
    const { socket, listener } = this.#options;
    if (listener !== undefined) return this.#listenOn({ fd: listener });
    mkdirSync(dirname(socket), { recursive: true, mode: 0o711 });
    if (await answers(socket)) throw new SluiceError('INVALID_REQUEST', `another daemon listens on ${socket}`);
    rmSync(socket, { force: true });
    // connect(2) needs write permission on the socket, which the daemon's umask (src/main/folders.ts) denies to others
    // from bind(2) on. A umask for this call alone would apply to the files that other threads make meanwhile.
    await this.#listenOn({ path: socket });
    chmodSync(socket, 0o600);
  }

  /** grpc-js takes its connections from here, one by one, once their clients' authority is known. */
  async #listenOn(where: { fd: number } | { path: string }): Promise<void> {
    const injector = this.#server.createConnectionInjector(ServerCredentials.createInsecure());
    const listener = createServer((connection) => {
      this.#unserved.add(connection);
      connection.on('close', () => this.#unserved.delete(connection));
      acceptAuthority(connection, (served) => {
        this.#unserved.delete(connection);
        this.#served.add(connection);
        connection.on('close', () => this.#served.delete(connection));
        injector.injectConnection(served);
      });
    });
    listener.listen(where);
    await once(listener, 'listening');
    listener.on('error', (error) => this.#options.onError?.('accept', error));
    this.#listener = listener;
  }

  /** Calls that have come and wait for their turn. */
  get waiting(): number {
    return this.#turns.waiting;
  }

  /** Connections that are served. */
  get connections(): number {
    return this.#served.size;
  }

  /** Refuses new calls, waits for the running ones, and after `graceMs` cuts the rest (streams without an end). */
  async close(graceMs: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#listener?.close(); // who connects from now on waits in the socket's queue for the next daemon
    // Whoever has connected has a request on its way, which no other daemon can answer: it is read before its
    // connection is told that the server ends.
    for (let waited = 0; waited < FIRST_REQUEST_MS; waited += SETTLE_MS) {
      const all = this.#unserved.size === 0;
      await sleep(SETTLE_MS);
      if (all) break;
    }
    for (const connection of this.#unserved) connection.destroy();
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

  #unary(method: string, verb: AnyVerb): handleUnaryCall<unknown, unknown> {
    return (call, callback) => {
      const ended = this.#began(method);
      Promise.try(() => verb(call.request as never, callInfo(method, call)))
        .then(
          (response) => {
            ended(status.OK);
            callback(null, response);
          },
          (error: unknown) => {
            const failure = this.#failure(method, error);
            ended(failure.code);
            callback(failure, null);
          },
        )
        .catch((error: unknown) => this.#options.onError?.(method, error)); // the answer could not be sent
      this.#turns.begun();
    };
  }

  #stream(method: string, verb: AnyVerb): handleServerStreamingCall<unknown, unknown> {
    return async (call) => {
      this.#turns.begun();
      const ended = this.#began(method);
      const info = callInfo(method, call);
      try {
        for await (const message of verb(call.request as never, info) as AsyncIterable<unknown>) {
          if (info.left.aborted) break;
          if (!call.write(message)) await drained(call, info.left);
        }
        ended(status.OK);
        call.end();
      } catch (error) {
        const failure = this.#failure(method, error);
        ended(failure.code);
        // Not destroy: grpc-js sends the status of a failed stream from its 'error' handler, which a destroyed stream
        // does not end, so the client would wait for ever.
        call.emit('error', Object.assign(new Error(failure.details), failure));
      }
    };
  }

  #began(method: string): (code: number) => void {
    const began = performance.now();
    return (code) => this.#options.onCall?.(method, code, (performance.now() - began) / 1000);
  }

  #failure(method: string, error: unknown): { code: number; details: string } {
    this.#options.onError?.(method, error);
    return { code: ERRORS[codeOf(error)].status, details: statusText(error) };
  }
}

/**
 * The error's chain as one line. Where kubelet has a reason of its own for it, that is the first word, as kubelet's
 * prefix test needs.
 */
export function statusText(error: unknown): string {
  const reason = kubeletReasonOf(error);
  return reason ? `${reason}: ${explain(error)}` : explain(error);
}

function callInfo(
  method: string,
  call: ServerUnaryCall<unknown, unknown> | ServerWritableStream<unknown, unknown>,
): CallInfo {
  const left = new AbortController();
  const leave = () => {
    const deadline = call.getDeadline();
    const late = Number(deadline instanceof Date ? deadline.getTime() : deadline) <= Date.now();
    left.abort((late ? 'deadline' : 'cancelled') satisfies CallerLeft);
  };
  if (call.cancelled)
    leave(); // while it waited for its turn
  else call.on('cancelled', leave);
  const traceparent = call.metadata.get('traceparent')[0];
  return { method, left: left.signal, traceparent: typeof traceparent === 'string' ? traceparent : undefined };
}

/** Resolves at 'drain', when a slow client has read what was written, or when it is gone. */
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
