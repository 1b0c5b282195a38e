/**
 * A ttrpc client: unary calls, any number at once, over one unix socket. Stream ids are odd and rise in the order in which the
 * frames are written, which the server insists on; answers come in any order.
 */
import { createConnection, type Socket } from 'node:net';
import type { MessageFns } from '../../../proto/gen/task.ts';
import { Request, Response } from '../../../proto/gen/ttrpc.ts';
import { GRPC } from '../../errors.ts';
import { encodeFrame, FRAME, type Frame, FrameReader, MAX_PAYLOAD } from './ttrpc-frame.ts';

/** What the server answered instead of a result. `code` is a gRPC status number, the message is the server's own. */
export class TtrpcError extends Error {
  override readonly name = 'TtrpcError';
  readonly code: number;

  constructor(code: number, message: string) {
    super(message);
    this.code = code;
  }
}

/** The connection ended with the call in flight (or before it): whether the server did the work is not known. */
export class TtrpcClosed extends Error {
  override readonly name = 'TtrpcClosed';
}

interface Pending {
  resolve: (payload: Uint8Array) => void;
  reject: (error: Error) => void;
  timer: NodeJS.Timeout | undefined;
}

/** Requests and responses of one method. */
export interface Method<Req, Res> {
  name: string;
  request: Pick<MessageFns<Req>, 'encode'>;
  response: Pick<MessageFns<Res>, 'decode'>;
}

export class TtrpcClient {
  /** Resolves, never rejects, when the connection has ended for whatever reason. */
  readonly closed: Promise<TtrpcClosed>;
  readonly #socket: Socket;
  readonly #pending = new Map<number, Pending>();
  #nextStream = 1;
  #end: TtrpcClosed | undefined;

  /** Takes over a connected socket; {@link connect} makes one. */
  constructor(socket: Socket) {
    this.#socket = socket;
    const { promise, resolve } = Promise.withResolvers<TtrpcClosed>();
    this.closed = promise;
    const reader = new FrameReader((frame) => this.#onFrame(frame));
    socket.on('data', (chunk: Buffer) => reader.push(chunk));
    let cause: unknown;
    socket.on('error', (error) => {
      cause = error;
    });
    // Half a connection is of no use: a server that sends no more answers is gone.
    socket.on('end', () => socket.destroy());
    socket.on('close', () => {
      this.#end ??= new TtrpcClosed('ttrpc: closed', { cause });
      for (const pending of this.#pending.values()) {
        clearTimeout(pending.timer);
        pending.reject(this.#end);
      }
      this.#pending.clear();
      resolve(this.#end);
    });
  }

  /**
   * Connects to the unix socket at `path`. Rejects with the socket's own error (ECONNREFUSED, ENOENT), or a
   * {@link TtrpcError} DEADLINE_EXCEEDED when nobody accepts within `timeoutMs`.
   */
  static async connect(path: string, timeoutMs: number): Promise<TtrpcClient> {
    const socket = createConnection({ path });
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const timer = setTimeout(() => {
      reject(new TtrpcError(GRPC.DEADLINE_EXCEEDED, `${path}: not connected within ${timeoutMs} ms`));
    }, timeoutMs);
    socket.once('connect', resolve);
    socket.once('error', reject);
    try {
      await promise;
    } catch (error) {
      socket.destroy();
      throw error;
    } finally {
      clearTimeout(timer);
      socket.removeListener('error', reject);
    }
    return new TtrpcClient(socket);
  }

  get open(): boolean {
    return this.#end === undefined && !this.#socket.destroyed;
  }

  /** Calls in flight. */
  get pending(): number {
    return this.#pending.size;
  }

  /**
   * One unary call. `timeoutMs` goes to the server and is kept here too; without it the call waits as long as the connection
   * lives. Rejects with {@link TtrpcError} or {@link TtrpcClosed}.
   */
  async call<Req, Res>(service: string, method: Method<Req, Res>, request: Req, timeoutMs?: number): Promise<Res> {
    const payload = Request.encode({
      service,
      method: method.name,
      payload: Buffer.from(method.request.encode(request).finish()),
      timeoutNano: timeoutMs === undefined ? 0n : BigInt(Math.ceil(timeoutMs)) * 1_000_000n,
      metadata: [],
    }).finish();
    if (payload.length > MAX_PAYLOAD) {
      const sizes = `${payload.length} bytes, ${MAX_PAYLOAD} are allowed`;
      throw new TtrpcError(GRPC.RESOURCE_EXHAUSTED, `the request ${method.name} is too large: ${sizes}`);
    }
    return method.response.decode(await this.#exchange(method.name, payload, timeoutMs));
  }

  /** Ends the connection; calls in flight reject with {@link TtrpcClosed}. */
  close(): void {
    this.#end ??= new TtrpcClosed('ttrpc: closed by this side');
    this.#socket.destroy();
  }

  #exchange(method: string, payload: Uint8Array, timeoutMs: number | undefined): Promise<Uint8Array> {
    if (!this.open) return Promise.reject(this.#end ?? new TtrpcClosed('ttrpc: closed'));
    const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>();
    const stream = this.#nextStream;
    this.#nextStream += 2;
    const timer =
      timeoutMs === undefined
        ? undefined
        : setTimeout(() => {
            this.#pending.delete(stream);
            reject(new TtrpcError(GRPC.DEADLINE_EXCEEDED, `${method}: no answer within ${timeoutMs} ms`));
          }, timeoutMs);
    this.#pending.set(stream, { resolve, reject, timer });
    this.#socket.write(encodeFrame(stream, FRAME.REQUEST, payload));
    return promise;
  }

  #onFrame(frame: Frame): void {
    const pending = this.#pending.get(frame.stream);
    // The answer to a call that was given up, or a kind of frame that unary calls do not have.
    if (!pending || frame.type !== FRAME.RESPONSE) return;
    this.#pending.delete(frame.stream);
    clearTimeout(pending.timer);
    if (frame.oversize) {
      pending.reject(new TtrpcError(GRPC.RESOURCE_EXHAUSTED, `the answer is larger than ${MAX_PAYLOAD} bytes`));
      return;
    }
    let response: Response;
    try {
      response = Response.decode(frame.payload);
    } catch (cause) {
      // Whoever garbles one answer may garble all of them: nothing on this connection can be believed any more.
      this.#end = new TtrpcClosed('ttrpc: the server sent an answer that cannot be decoded', { cause });
      pending.reject(this.#end);
      this.#socket.destroy();
      return;
    }
    const code = response.status?.code ?? 0;
    if (code === 0) pending.resolve(response.payload);
    else pending.reject(new TtrpcError(code, response.status?.message ?? ''));
  }
}
