/**
 * A ttrpc server for unary methods, to which shims forward their events. A malformed request closes its own connection
 * and affects no other.
 */
import { chmod } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { Request, Response } from '../../../proto/gen/ttrpc.ts';
import { GRPC } from '../../errors.ts';
import { removeFile } from '../../sys/folder.ts';
import { encodeFrame, FRAME, type Frame, FrameReader, MAX_PAYLOAD } from './ttrpc-frame.ts';

/**
 * Takes the payload of a request and returns the payload of the response; what it throws becomes an INTERNAL status.
 */
export type UnaryHandler = (payload: Uint8Array) => Uint8Array;

export interface TtrpcServerOptions {
  /** Path of the unix socket, at most 107 bytes (sun_path). An existing file is replaced. */
  path: string;
  /** Handlers by `service/method`. */
  methods: Readonly<Record<string, UnaryHandler>>;
  /** Receives errors of the server, of requests and of handlers, for the log. */
  onError: (error: Error) => void;
}

export class TtrpcServer implements AsyncDisposable {
  readonly path: string;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #options: TtrpcServerOptions;

  private constructor(options: TtrpcServerOptions) {
    this.path = options.path;
    this.#options = options;
    this.#server = createServer((socket) => this.#serve(socket));
  }

  static async listen(options: TtrpcServerOptions): Promise<TtrpcServer> {
    const self = new TtrpcServer(options);
    await removeFile(options.path);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    self.#server.once('error', reject);
    self.#server.listen({ path: options.path }, resolve);
    await promise;
    self.#server.off('error', reject);
    self.#server.on('error', options.onError);
    await chmod(options.path, 0o600);
    return self;
  }

  get connections(): number {
    return this.#sockets.size;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#server.close(() => resolve());
    for (const socket of this.#sockets) socket.destroy();
    await promise;
  }

  #serve(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on('close', () => this.#sockets.delete(socket));
    // A shim that is killed resets its connection (ECONNRESET); 'close' follows.
    socket.on('error', () => socket.destroy());
    const reader = new FrameReader((frame) => {
      if (!socket.writable || frame.type !== FRAME.REQUEST) return;
      try {
        const response = Response.encode(this.#answer(frame)).finish();
        socket.write(encodeFrame(frame.stream, FRAME.RESPONSE, response));
      } catch (cause) {
        this.#options.onError(new Error('a ttrpc request cannot be decoded; its connection is closed', { cause }));
        socket.destroy();
      }
    });
    socket.on('data', (chunk: Buffer) => reader.push(chunk));
  }

  #answer(frame: Frame): Response {
    if (frame.oversize) return refuse(GRPC.RESOURCE_EXHAUSTED, `the message is larger than ${MAX_PAYLOAD} bytes`);
    const request = Request.decode(frame.payload);
    const name = `${request.service}/${request.method}`;
    const handler = Object.hasOwn(this.#options.methods, name) ? this.#options.methods[name] : undefined;
    if (!handler) return refuse(GRPC.UNIMPLEMENTED, `${name}: not served here`);
    try {
      return { status: undefined, payload: Buffer.from(handler(request.payload)) };
    } catch (cause) {
      this.#options.onError(new Error(`${name} failed`, { cause }));
      return refuse(GRPC.INTERNAL, cause instanceof Error ? cause.message : String(cause));
    }
  }
}

function refuse(code: number, message: string): Response {
  return { status: { code, message, details: [] }, payload: Buffer.alloc(0) };
}
