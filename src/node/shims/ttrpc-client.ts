/**
 * A ttrpc client: any number of unary calls at once over one unix socket. Stream ids are odd and rise in the order in
 * which the frames are written, which the server requires; responses arrive in any order.
 */
import { createConnection, type Socket } from 'node:net';
import type { MessageFns } from '../../../proto/gen/task.ts';
import { Request, Response } from '../../../proto/gen/ttrpc.ts';
import { GRPC } from '../../errors.ts';
import { withTimeLimit } from '../../time-limit.ts';
import { encodeFrame, FRAME, type Frame, FrameReader, MAX_PAYLOAD } from './ttrpc-frame.ts';

/**
 * A status other than OK: `code` is a gRPC status number, `message` the server's text. Time limits have this type as
 * well.
 */
export class TtrpcError extends Error {
  override readonly name = 'TtrpcError';
  readonly code: number;

  constructor(code: number, message: string) {
    super(message);
    this.code = code;
  }
}

/** The connection ended before or during the call. The server may or may not have done the work. */
export class TtrpcClosed extends Error {
  override readonly name = 'TtrpcClosed';
}

interface Pending {
  resolve: (payload: Uint8Array) => void;
  reject: (error: Error) => void;
  timer: NodeJS.Timeout | undefined;
}

/** Name and codecs of one method. */
export interface Method<Req, Res> {
  name: string;
  request: Pick<MessageFns<Req>, 'encode'>;
  response: Pick<MessageFns<Res>, 'decode'>;
}

export class TtrpcClient {
  /** Resolves with the reason when the connection has ended; never rejects. */
  readonly closed: Promise<TtrpcClosed>;
  readonly #socket: Socket;
  readonly #pending = new Map<number, Pending>();
  #nextStream = 1;
  #end: TtrpcClosed | undefined;

  /** Takes over a connected socket; use {@link connect} to open one. */
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
    // A half-open connection is useless: a server that has shut down its side sends no more responses.
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
   * Connects to the unix socket at `path`. Rejects with the socket's own error (ECONNREFUSED, ENOENT), or with a
   * {@link TtrpcError} DEADLINE_EXCEEDED when the connection is not accepted within `timeoutMs`.
   */
  static async connect(path: string, timeoutMs: number): Promise<TtrpcClient> {
    const socket = createConnection({ path });
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    socket.once('connect', resolve);
    socket.once('error', reject);
    try {
      await withTimeLimit(promise, timeoutMs, () => {
        throw new TtrpcError(GRPC.DEADLINE_EXCEEDED, `${path}: not connected within ${timeoutMs} ms`);
      });
    } catch (error) {
      socket.destroy();
      throw error;
    } finally {
      socket.removeListener('error', reject);
    }
    return new TtrpcClient(socket);
  }

  get open(): boolean {
    return this.#end === undefined && !this.#socket.destroyed;
  }

  /** Number of calls in flight. */
  get pending(): number {
    return this.#pending.size;
  }

  /**
   * Makes one unary call. `timeoutMs` is sent to the server and enforced here too; without it the call waits until the
   * connection ends. Rejects with {@link TtrpcError} or {@link TtrpcClosed}.
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
      const sizes = `${payload.length} bytes, the limit is ${MAX_PAYLOAD}`;
      throw new TtrpcError(GRPC.RESOURCE_EXHAUSTED, `the request ${method.name} is too large: ${sizes}`);
    }
    return method.response.decode(await this.#exchange(method.name, payload, timeoutMs));
  }

  /** Closes the connection; calls in flight reject with {@link TtrpcClosed}. */
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
            reject(new TtrpcError(GRPC.DEADLINE_EXCEEDED, `${method}: no response within ${timeoutMs} ms`));
          }, timeoutMs);
    this.#pending.set(stream, { resolve, reject, timer });
    this.#socket.write(encodeFrame(stream, FRAME.REQUEST, payload));
    return promise;
  }

  #onFrame(frame: Frame): void {
    const pending = this.#pending.get(frame.stream);
    // The call has timed out, or the frame has a type that unary calls do not use.
    if (!pending || frame.type !== FRAME.RESPONSE) return;
    this.#pending.delete(frame.stream);
    clearTimeout(pending.timer);
    if (frame.oversize) {
      pending.reject(new TtrpcError(GRPC.RESOURCE_EXHAUSTED, `the response is larger than ${MAX_PAYLOAD} bytes`));
      return;
    }
    let response: Response;
    try {
      response = Response.decode(frame.payload);
    } catch (cause) {
      // A response that cannot be decoded means that the framing may be lost, so the whole connection is closed.
      this.#end = new TtrpcClosed('ttrpc: the server sent a response that cannot be decoded', { cause });
      pending.reject(this.#end);
      this.#socket.destroy();
      return;
    }
    const code = response.status?.code ?? 0;
    if (code === 0) pending.resolve(response.payload);
    else pending.reject(new TtrpcError(code, response.status?.message ?? ''));
  }
}
