import { connect as connectTcp, isIP, type Socket } from 'node:net';
import { Readable } from 'node:stream';
import { connect as connectTls } from 'node:tls';
import { type AnswerHead, AnswerReader, NotHttp } from './answer-reader.ts';
import type { Connection } from './dispatchers.ts';
import { proxyFor } from './proxy.ts';
import type { Target } from './redirect.ts';
import { secureContext } from './tls.ts';

export interface LenientRequest extends Target, Connection {
  /** Milliseconds in which the answer must begin. */
  silenceMs: number;
  signal: AbortSignal;
}

export interface LenientAnswer extends AnswerHead {
  /** Unread; must be read or destroyed. */
  body: Readable;
}

/**
 * Does an answer break the rules that undici keeps to, and Go does not: a length beside chunks, of which the chunks
 * count, or with spaces behind it, which undici reads as digits?
 */
export function needsLenience(headers: Record<string, string>): boolean {
  const length = headers['content-length'];
  return length !== undefined && (headers['transfer-encoding'] !== undefined || !/^\d+$/.test(length));
}

/**
 * Errors of undici's parser, in place of an answer, that {@link AnswerReader} may take. undici reports the mismatch of
 * a length also for what it could not parse, and an unasked "100 Continue" as a bad response.
 */
export function isParserError(error: unknown): boolean {
  const { name, code, message } = error as NodeJS.ErrnoException;
  if (code === 'UND_ERR_SOCKET') return message === 'bad response';
  return name === 'HTTPParserError' || code === 'UND_ERR_RES_CONTENT_LENGTH_MISMATCH';
}

/** Can {@link lenientRequest} reach this URL? Proxies that speak TLS or SOCKS are undici's alone. */
export const isWithinReach = (url: string): boolean => (proxyFor(new URL(url))?.protocol ?? 'http:') === 'http:';

/**
 * Sends a request over a connection of its own, whose answer is read as Go's client would. Such answers could smuggle
 * others into a shared connection: this one is closed after it. What comes over it is verified by digest like
 * everything else. Throws what the socket throws, and {@link NotHttp}.
 */
export async function lenientRequest(wanted: LenientRequest): Promise<LenientAnswer> {
  const { method, url, silenceMs, signal } = wanted;
  const place = new URL(url);
  const abort = new AbortController();
  const onSilence = setTimeout(() => abort.abort(new Error(`no answer within ${silenceMs / 1000} s`)), silenceMs);
  const ended = AbortSignal.any([signal, abort.signal]);
  let socket: Socket | undefined;
  const cancel = () => socket?.destroy(ended.reason);
  ended.addEventListener('abort', cancel, { once: true });
  try {
    const proxy = proxyFor(place);
    socket = await opened(proxy ?? place, wanted, ended);
    if (proxy && place.protocol === 'https:') socket = await tunnelled(socket, proxy, place, wanted, ended);
    const target = proxy && place.protocol === 'http:' ? place.href : `${place.pathname}${place.search}`;
    socket.write(requestText(wanted, place, target, target === place.href ? proxy : undefined));
    const reader = new AnswerReader(socket);
    const head = await reader.head();
    return { ...head, body: bodyOf(reader.body(method, head), socket) };
  } catch (error) {
    socket?.destroy();
    ended.throwIfAborted();
    throw error;
  } finally {
    clearTimeout(onSilence);
  }
}

function bodyOf(pieces: AsyncGenerator<Buffer>, socket: Socket): Readable {
  const body = Readable.from(pieces, { objectMode: false });
  body.once('close', () => socket.destroy());
  return body;
}

function requestText({ method, headers, body }: Target, place: URL, target: string, proxy: URL | undefined): Buffer {
  const all: Record<string, string> = { host: place.host, connection: 'close', ...headers };
  if (proxy) Object.assign(all, proxyLogin(proxy));
  if (body !== undefined) all['content-length'] = String(Buffer.byteLength(body));
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`);
  return Buffer.concat([
    Buffer.from(`${method} ${target} HTTP/1.1\r\n${lines.join('')}\r\n`, 'latin1'),
    Buffer.from(body ?? ''),
  ]);
}

function proxyLogin({ username, password }: URL): Record<string, string> {
  if (username === '') return {};
  const pair = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
  return { 'proxy-authorization': `Basic ${Buffer.from(pair).toString('base64')}` };
}

const hostIn = (url: URL) => url.hostname.replace(/^\[(.*)\]$/, '$1');
const portOf = (url: URL) => Number(url.port || (url.protocol === 'https:' ? 443 : 80));

function opened(url: URL, { tls, dialTimeoutMs }: Connection, signal: AbortSignal): Promise<Socket> {
  const [host, port] = [hostIn(url), portOf(url)];
  const isTls = url.protocol === 'https:';
  const socket = isTls ? connectTls({ host, port, ...secured(url, tls) }) : connectTcp({ host, port });
  return whenOpen(socket, isTls ? 'secureConnect' : 'connect', dialTimeoutMs, signal);
}

const secured = (url: URL, tls: Connection['tls']) => ({
  secureContext: secureContext(tls),
  rejectUnauthorized: tls.rejectUnauthorized ?? true,
  ALPNProtocols: ['http/1.1'],
  ...(isIP(hostIn(url)) === 0 && { servername: hostIn(url) }),
});

/** A tunnel through a proxy (RFC 9110 9.3.6), with TLS to the host at its other end. */
async function tunnelled(
  through: Socket,
  proxy: URL,
  place: URL,
  { tls, dialTimeoutMs }: Connection,
  signal: AbortSignal,
): Promise<Socket> {
  const authority = `${place.hostname}:${portOf(place)}`;
  const login = Object.entries(proxyLogin(proxy)).map(([name, value]) => `${name}: ${value}\r\n`);
  through.write(`CONNECT ${authority} HTTP/1.1\r\nhost: ${authority}\r\n${login.join('')}\r\n`);
  const { status } = await new AnswerReader(through.iterator({ destroyOnReturn: false })).head();
  if (status !== 200) throw new NotHttp(`the proxy ${proxy.host} answers ${status}`);
  return whenOpen(connectTls({ socket: through, ...secured(place, tls) }), 'secureConnect', dialTimeoutMs, signal);
}

function whenOpen(socket: Socket, event: string, dialTimeoutMs: number, signal: AbortSignal): Promise<Socket> {
  const { promise, resolve, reject } = Promise.withResolvers<Socket>();
  const late = () => socket.destroy(new Error(`no connection within ${dialTimeoutMs / 1000} s`));
  const timer = setTimeout(late, dialTimeoutMs);
  const onAbort = () => socket.destroy(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  socket.once(event, () => resolve(socket));
  // Also later: an error that comes once the socket is open ends its iterator, and must not be thrown at nobody.
  socket.on('error', reject);
  return promise.finally(() => {
    clearTimeout(timer);
    signal.removeEventListener('abort', onAbort);
  });
}
