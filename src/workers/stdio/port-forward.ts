import { once } from 'node:events';
import { connect, type OnReadOpts, Socket } from 'node:net';
import { Duplex, type Writable } from 'node:stream';
import type { WebSocket } from 'ws';
import { explain } from '../../errors.ts';
import { StrandedThread } from '../../sys/stranded-thread.ts';
import { connectInNetns } from '../../sys/tcp.ts';
import { CHUNK, pooledCopy } from './buffer-pool.ts';
import type { StreamRequest } from './protocol.ts';
import { RST, SpdyConnection, type SpdyStream } from './spdy.ts';
import { WsChannels } from './ws-channels.ts';

export const PORT_FORWARD_PROTOCOL = 'portforward.k8s.io';
/** SPDY inside a WebSocket, as kubectl and crictl offer it; the second name is from KEP 4006. */
export const TUNNEL_PROTOCOLS = ['SPDY/3.1+portforward.k8s.io', 'v2.portforward.k8s.io'];
/** WebSocket channels, two per port. */
export const CHANNEL_PROTOCOLS = ['v4.channel.k8s.io', 'v4.base64.channel.k8s.io'];

const CONNECT_MS = 10_000;

export type PortForwardRequest = Extract<StreamRequest, { kind: 'portforward' }>;

export interface PortForwardContext {
  /** Time within which the second stream of a pair must be opened, in milliseconds. */
  pairTimeoutMs: number;
  onFailure(message: string): void;
}

/**
 * Port-forward over SPDY. For each connection the client opens two streams, `error` and `data`, with the same
 * `requestID` and the `port`. A failure is written to the error stream of that connection; the others continue.
 */
export function serveSpdyPortForward(
  socket: Duplex,
  request: PortForwardRequest,
  context: PortForwardContext,
  onClose: () => void,
): void {
  const pairs = new Map<string, { error?: SpdyStream; data?: SpdyStream; timer: NodeJS.Timeout }>();
  new SpdyConnection(socket, {
    onStream: (stream) => {
      const port = Number(stream.headers.get('port'));
      const type = stream.headers.get('streamtype');
      if (!Number.isInteger(port) || port < 1 || port > 65535 || (type !== 'error' && type !== 'data')) {
        return stream.reset(RST.REFUSED_STREAM);
      }
      // Clients without request ids open the error stream first and the data stream directly after it.
      const id = stream.headers.get('requestid') ?? String(type === 'error' ? stream.id : stream.id - 2);
      let pair = pairs.get(id);
      if (!pair) {
        const timer = setTimeout(() => {
          pairs.delete(id);
          pair?.error?.end(`timed out waiting for the data stream of request ${id}`);
          pair?.data?.reset(RST.CANCEL);
        }, context.pairTimeoutMs);
        pair = { timer };
        pairs.set(id, pair);
      }
      if (pair[type]) return stream.reset(RST.PROTOCOL_ERROR);
      pair[type] = stream;
      stream.reply();
      const { error, data, timer } = pair;
      if (!error || !data) return;
      clearTimeout(timer);
      pairs.delete(id);
      error.resume();
      void forward(request, port, data, error, true, context).then((failed) => {
        if (failed) data.reset(RST.CANCEL);
      });
    },
    onClose: () => {
      for (const { timer } of pairs.values()) clearTimeout(timer);
      onClose();
    },
  });
}

/**
 * Port-forward over WebSocket channels: channel 2n has the data of the n-th port, 2n + 1 its errors; the first message
 * of both is the port's number.
 */
export function serveWsPortForward(
  ws: WebSocket,
  protocol: string,
  request: PortForwardRequest,
  context: PortForwardContext,
): void {
  const channels = new WsChannels(ws, { base64: protocol.includes('base64'), canClose: false });
  const all = request.ports.map(async (port, at) => {
    const name = Buffer.alloc(2);
    name.writeUInt16LE(port);
    channels.send(2 * at, name);
    channels.send(2 * at + 1, name);
    const data = Duplex.from({ readable: channels.input(2 * at), writable: channels.output(2 * at) });
    data.on('error', () => {});
    await forward(request, port, data, channels.output(2 * at + 1), false, context);
  });
  void Promise.all(all).then(() => ws.close(1000));
}

/**
 * Forwards one connection until it ends. Each side may half-close where the client's protocol supports it. Resolves
 * with true when no connection could be made.
 */
async function forward(
  request: PortForwardRequest,
  port: number,
  data: Duplex,
  error: Writable,
  canHalfClose: boolean,
  context: PortForwardContext,
): Promise<boolean> {
  let socket: Socket;
  const relay = new Relay(data);
  try {
    socket = await dial(request.netns, port, relay.onread);
    relay.from(socket);
  } catch (cause) {
    if (cause instanceof StrandedThread) process.exit(1);
    const message = `error forwarding port ${port} to pod ${request.sandboxId}: ${explain(cause)}`;
    context.onFailure(message);
    error.end(message);
    return true;
  }
  await new Promise<void>((resolve) => {
    socket.on('error', (cause) => {
      if (!error.writableEnded)
        error.write(`error forwarding port ${port} to pod ${request.sandboxId}: ${cause.message}`);
      data.destroy();
    });
    data.on('close', () => {
      // After a clean end in both directions the socket still sends its buffered data; otherwise it is destroyed.
      if (!data.readableEnded || !data.writableFinished) socket.destroy();
    });
    if (!canHalfClose) socket.on('end', () => socket.end());
    socket.on('close', resolve);
    if (data.destroyed) socket.destroy();
    data.pipe(socket);
    socket.resume();
  });
  if (!data.writableEnded) data.end();
  error.end();
  return false;
}

/** Shared by all sockets of the thread: each read is consumed before the next one happens. */
const SHARED = Buffer.allocUnsafeSlow(CHUNK);

/** Copies data from a socket to the client, no faster than the client reads. */
class Relay {
  readonly #to: Duplex;
  readonly onread: OnReadOpts = {
    buffer: SHARED,
    callback: (count) => {
      const { copy, written } = pooledCopy(SHARED.subarray(0, count));
      return this.#to.destroyed || this.#to.write(copy, written);
    },
  };

  constructor(to: Duplex) {
    this.#to = to;
  }

  from(socket: Socket): void {
    this.#to.on('drain', () => socket.resume());
    socket.on('end', () => this.#to.end());
  }
}

async function dial(netns: string, port: number, onread: OnReadOpts): Promise<Socket> {
  if (netns !== '') {
    const fd = await connectInNetns(netns, port, CONNECT_MS);
    const socket = new Socket({ fd: fd.number, readable: true, writable: true, allowHalfOpen: true, onread });
    fd.release();
    socket.setNoDelay(true);
    return socket;
  }
  const attempt = async (host: string): Promise<Socket> => {
    const socket = connect({ host, port, allowHalfOpen: true, noDelay: true, onread });
    const timer = setTimeout(() => socket.destroy(new Error(`connect to port ${port}: timed out`)), CONNECT_MS);
    try {
      await once(socket, 'connect');
      return socket;
    } finally {
      clearTimeout(timer);
    }
  };
  try {
    return await attempt('127.0.0.1');
  } catch (error) {
    return await attempt('::1').catch(() => {
      throw error;
    });
  }
}
