/**
 * The streaming server: an HTTP server that upgrades a request with a one-time URL to a connection for exec, attach or
 * port-forward. Its clients are kubelet (for the API server and kubectl) and crictl; the URL is the only authorisation.
 */
import type { IncomingMessage, Server } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { createWebSocketStream, type WebSocket, WebSocketServer } from 'ws';
import { explain, SluiceError } from '../../errors.ts';
import { createServer, STATUS_CODES } from '../../sys/http.ts';
import { readHostFile } from '../host-paths/read-file.ts';
import { serveAttach } from './attach.ts';
import { serveExec } from './exec.ts';
import type { IoTable } from './io-table.ts';
import {
  CHANNEL_PROTOCOLS,
  PORT_FORWARD_PROTOCOL,
  serveSpdyPortForward,
  serveWsPortForward,
  TUNNEL_PROTOCOLS,
} from './port-forward.ts';
import type {
  ExecBackend,
  ListenInput,
  Listening,
  StdioEvent,
  StdioStats,
  StreamKind,
  StreamRequest,
} from './protocol.ts';
import type { RemoteSession } from './remote-session.ts';
import { selfSigned } from './self-signed.ts';
import { SPDY_PROTOCOLS, spdySession } from './spdy-session.ts';
import { Tokens } from './tokens.ts';
import { WS_PROTOCOLS, wsSession } from './ws-session.ts';

const HANDSHAKE_MS = 30_000;
/** Limit of a WebSocket message in bytes; SPDY has its own limits. */
const MAX_MESSAGE = 4 << 20;
const MAX_CONNECTIONS = 4096;
/** Idle time before TCP keepalive probes, by which a peer whose machine is gone is detected (milliseconds). */
const KEEPALIVE_MS = 30_000;
const UPGRADE_WS = 'websocket';
const UPGRADE_SPDY = 'SPDY/3.1';

export interface ServerOptions {
  containers: IoTable;
  backend: ExecBackend;
  /** Folder for the FIFOs of execs. */
  execDir: string;
  onEvent(event: StdioEvent): void;
}

/** An HTTP answer other than the upgrade. */
class Refusal extends Error {
  readonly status: number;
  readonly headers: string[];

  constructor(status: number, message: string, headers: string[] = []) {
    super(message);
    this.status = status;
    this.headers = headers;
  }
}

export class StreamServer {
  readonly #options: ServerOptions;
  readonly #tokens = new Tokens();
  readonly #sessions = { exec: 0, attach: 0, portforward: 0 };
  readonly #sockets = new Set<Duplex>();
  readonly #chosen = new WeakMap<IncomingMessage, string>();
  readonly #webSockets = new WebSocketServer({
    noServer: true,
    perMessageDeflate: false,
    maxPayload: MAX_MESSAGE,
    clientTracking: false,
    handleProtocols: (_offered, request) => this.#chosen.get(request) ?? false,
  });
  #server: Server | undefined;
  #idleMs = 0;
  #handshakeMs = HANDSHAKE_MS;

  constructor(options: ServerOptions) {
    this.#options = options;
  }

  get use(): Pick<StdioStats, 'sessions' | 'tokens'> {
    return { sessions: { ...this.#sessions }, tokens: this.#tokens.size };
  }

  /**
   * Starts the server. Throws INTERNAL when the address is in use, CONFIG_INVALID when the certificate cannot be read.
   */
  async listen(input: ListenInput): Promise<Listening> {
    if (this.#server) throw new SluiceError('INTERNAL', 'the streaming server listens already');
    const { host, port } = splitAddress(input.address);
    this.#idleMs = input.idleTimeoutMs;
    this.#handshakeMs = input.handshakeTimeoutMs ?? HANDSHAKE_MS;
    const limits = {
      headersTimeout: this.#handshakeMs,
      requestTimeout: this.#handshakeMs,
      connectionsCheckingInterval: Math.min(1000, this.#handshakeMs),
      keepAliveTimeout: 5000,
    };
    const server = input.tls
      ? createTlsServer({ ...limits, ...(await certificate(input.tls, host)), handshakeTimeout: this.#handshakeMs })
      : createServer(limits);
    server.maxConnections = MAX_CONNECTIONS;
    server.on('connection', (socket: Socket) => {
      socket.setNoDelay(true);
      socket.setKeepAlive(true, KEEPALIVE_MS);
      this.#sockets.add(socket);
      socket.on('close', () => this.#sockets.delete(socket));
    });
    server.on('upgrade', (request: IncomingMessage, socket: Socket, head: Buffer) => {
      socket.on('error', () => socket.destroy());
      try {
        this.#upgrade(request, socket, head);
      } catch (error) {
        refuse(socket, error);
      }
    });
    server.on('request', (request, response) => {
      let refusal: Refusal;
      try {
        this.#find(request);
        refusal = new Refusal(400, 'unable to upgrade: this URL is for a SPDY/3.1 or WebSocket connection');
      } catch (error) {
        refusal = error as Refusal;
      }
      response.writeHead(refusal.status, { 'Content-Type': 'text/plain', Connection: 'close' });
      response.end(`${refusal.message}\n`);
    });
    await new Promise<void>((resolve, reject) => {
      server.once('error', (cause) =>
        reject(new SluiceError('INTERNAL', `the streaming server cannot listen on ${input.address}`, { cause })),
      );
      server.listen(port, host, resolve);
    });
    this.#server = server;
    const real = (server.address() as AddressInfo).port;
    const shown = host.includes(':') ? `[${host}]` : host;
    return { url: `${input.tls ? 'https' : 'http'}://${shown}:${real}`, port: real };
  }

  /** Returns the path of a new one-time URL. Throws QUEUE_FULL, and INVALID_REQUEST for an invalid port. */
  issue(request: StreamRequest): string {
    const bad = request.kind === 'portforward' && request.ports.find((port) => port < 1 || port > 65535);
    if (typeof bad === 'number') throw new SluiceError('INVALID_REQUEST', `${bad} is not a port number`);
    return `/${request.kind}/${this.#tokens.issue(request)}`;
  }

  /** Closes the server and every connection. */
  async close(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    for (const socket of this.#sockets) socket.destroy();
    if (server) await new Promise<void>((resolve) => server.close(() => resolve()));
  }

  /** Throws a 404 unless the URL has an unused token. */
  #find(request: IncomingMessage): { token: string; wanted: StreamRequest } {
    const match = /^\/(exec|attach|portforward)\/([\w-]{22})(?:\?.*)?$/.exec(request.url ?? '');
    const method = request.method ?? '';
    const [, kind = '', token = ''] = match ?? [];
    const wanted = match && this.#tokens.peek(kind as StreamKind, token);
    if (!wanted) throw new Refusal(404, '404 page not found');
    if (method !== 'GET' && method !== 'POST') throw new Refusal(405, 'use GET or POST');
    return { token, wanted };
  }

  #upgrade(request: IncomingMessage, socket: Socket, head: Buffer): void {
    const { token, wanted } = this.#find(request);
    const upgrade = (request.headers.upgrade ?? '').toLowerCase();
    const start =
      upgrade === UPGRADE_WS
        ? this.#prepareWebSocket(request, socket, head, wanted)
        : upgrade === UPGRADE_SPDY.toLowerCase()
          ? this.#prepareSpdy(request, socket, head, wanted)
          : undefined;
    if (!start) throw new Refusal(400, `unable to upgrade: ${UPGRADE_SPDY} and ${UPGRADE_WS} are supported`);
    // The token is used up only now, so that a client which asked for an unsupported protocol may try another.
    this.#tokens.spend(token);
    start();
  }

  #prepareSpdy(request: IncomingMessage, socket: Socket, head: Buffer, wanted: StreamRequest): () => void {
    const served = wanted.kind === 'portforward' ? [PORT_FORWARD_PROTOCOL] : SPDY_PROTOCOLS;
    const header = request.headers['x-stream-protocol-version'];
    const offered = listOf(Array.isArray(header) ? header.join(',') : header);
    if (offered.length === 0) throw new Refusal(400, 'unable to upgrade: X-Stream-Protocol-Version is missing');
    const protocol = choose(offered, served);
    return () => {
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ${UPGRADE_SPDY}\r\n` +
          `X-Stream-Protocol-Version: ${protocol}\r\n\r\n`,
      );
      this.#begin(socket, head);
      if (wanted.kind === 'portforward') this.#forward(socket, wanted);
      else void this.#run(wanted, spdySession(socket, protocol, wanted, this.#handshakeMs));
    };
  }

  #prepareWebSocket(request: IncomingMessage, socket: Socket, head: Buffer, wanted: StreamRequest): () => void {
    const forwards = wanted.kind === 'portforward';
    const served = forwards ? [...TUNNEL_PROTOCOLS, ...CHANNEL_PROTOCOLS] : WS_PROTOCOLS;
    const offered = listOf(request.headers['sec-websocket-protocol']);
    const protocol = offered.length === 0 ? '' : choose(offered, served);
    if (protocol !== '') {
      // ws rejects "SPDY/3.1+portforward.k8s.io", which is not an HTTP token; it answers with what handleProtocols
      // returns.
      this.#chosen.set(request, protocol);
      request.headers['sec-websocket-protocol'] = 'chosen';
    }
    return () => {
      this.#webSockets.handleUpgrade(request, socket, head, (ws: WebSocket) => {
        this.#begin(socket, Buffer.alloc(0));
        if (wanted.kind !== 'portforward') {
          void this.#run(wanted, Promise.resolve(wsSession(ws, protocol || 'channel.k8s.io', wanted)));
        } else if (TUNNEL_PROTOCOLS.includes(protocol)) {
          this.#forward(createWebSocketStream(ws), wanted);
        } else {
          this.#count('portforward', ws);
          serveWsPortForward(ws, protocol, wanted, this.#forwardContext(wanted.sandboxId));
        }
      });
    };
  }

  #begin(socket: Socket, head: Buffer): void {
    if (head.length > 0) socket.unshift(head);
    socket.setTimeout(this.#idleMs, () => socket.destroy());
  }

  #count(kind: StreamKind, connection: { once(event: 'close', then: () => void): unknown }): void {
    this.#sessions[kind]++;
    connection.once('close', () => this.#sessions[kind]--);
  }

  #forward(stream: Duplex, wanted: Extract<StreamRequest, { kind: 'portforward' }>): void {
    this.#sessions.portforward++;
    serveSpdyPortForward(stream, wanted, this.#forwardContext(wanted.sandboxId), () => this.#sessions.portforward--);
  }

  #forwardContext(id: string) {
    return {
      pairTimeoutMs: this.#handshakeMs,
      onFailure: (message: string) =>
        this.#options.onEvent({ kind: 'stream-failed', stream: 'portforward', id, message }),
    };
  }

  async #run(wanted: Exclude<StreamRequest, { kind: 'portforward' }>, opening: Promise<RemoteSession>): Promise<void> {
    const { containers, backend, execDir, onEvent } = this.#options;
    const { kind, containerId: id } = wanted;
    const onFailure = (message: string) => onEvent({ kind: 'stream-failed', stream: kind, id, message });
    this.#sessions[kind]++;
    try {
      const session = await opening;
      const onDropped = (message: string) => onEvent({ kind: 'client-dropped', stream: kind, id, message });
      if (wanted.kind === 'exec') await serveExec(wanted, session, { backend, execDir, onFailure });
      else await serveAttach(wanted, session, { backend, containers, onDropped, onFailure });
    } catch (error) {
      onFailure(explain(error));
    } finally {
      this.#sessions[kind]--;
    }
  }
}

/** The first of the client's protocols that is supported. Throws a 403 with the list when there is none. */
function choose(offered: string[], served: string[]): string {
  const protocol = offered.find((name) => served.includes(name));
  if (protocol !== undefined) return protocol;
  throw new Refusal(
    403,
    `unable to upgrade: unable to negotiate protocol: client supports [${offered.join(' ')}], server accepts [${served.join(' ')}]`,
    served.map((name) => `X-Accepted-Stream-Protocol-Versions: ${name}`),
  );
}

const listOf = (header: string | undefined): string[] =>
  (header ?? '')
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '');

function refuse(socket: Duplex, error: unknown): void {
  const refusal = error instanceof Refusal ? error : new Refusal(500, explain(error));
  const body = `${refusal.message}\n`;
  const head = [
    `HTTP/1.1 ${refusal.status} ${STATUS_CODES[refusal.status]}`,
    'Content-Type: text/plain; charset=utf-8',
    `Content-Length: ${Buffer.byteLength(body)}`,
    'Connection: close',
    ...refusal.headers,
  ];
  socket.end(`${head.join('\r\n')}\r\n\r\n${body}`);
  // The client closes the connection; if it does not within a second, the server does.
  socket.resume();
  setTimeout(() => socket.destroy(), 1000).unref();
}

function splitAddress(address: string): { host: string; port: number } {
  const match = /^(?:\[([^\]]+)\]|([^:]*)):(\d+)$/.exec(address);
  if (!match || Number(match[3]) > 65535) {
    throw new SluiceError('CONFIG_INVALID', `the streaming address "${address}" is not host:port`);
  }
  return { host: match[1] ?? match[2] ?? '', port: Number(match[3]) };
}

/** Bytes of a PEM file, a chain of certificates at most. */
const MAX_PEM = 1 << 20;

async function certificate(tls: NonNullable<ListenInput['tls']>, host: string): Promise<{ cert: string; key: string }> {
  if (tls === 'self-signed') return selfSigned(host);
  try {
    return { cert: await readHostFile(tls.cert, MAX_PEM), key: await readHostFile(tls.key, MAX_PEM) };
  } catch (cause) {
    throw new SluiceError('CONFIG_INVALID', 'the certificate of the streaming server cannot be read', { cause });
  }
}
