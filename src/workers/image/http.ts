/**
 * HTTP to registries, in the worker for manifests and tokens as well as for blobs: making a TLS context with the system's
 * certificates takes 100 ms, which main does not have. node:https and not fetch, because fetch takes no CA or client certificate
 * without another package, and decodes content encodings, after which no digest fits.
 *
 * Proxies are taken from the environment (HTTPS_PROXY, HTTP_PROXY, NO_PROXY) as Go's programs do.
 */
import http from 'node:http';
import https from 'node:https';
import { createSecureContext, getCACertificates, rootCertificates, type SecureContext } from 'node:tls';

export interface TlsOptions {
  /** PEM texts, in addition to the system's and Node's own. */
  ca: string[];
  /** Pairs of PEM texts. */
  client: { cert: string; key: string }[];
  skipVerify: boolean;
}

export interface HttpRequest {
  url: string;
  method: 'GET' | 'HEAD' | 'POST';
  headers: Record<string, string | string[]>;
  body?: string;
  tls: TlsOptions;
  /** Milliseconds until the connection stands, TLS included. */
  dialTimeoutMs: number;
  /** Milliseconds from there until the answer begins. */
  answerTimeoutMs: number;
}

export interface Answer {
  response: http.IncomingMessage;
  /** Where the last redirection led. */
  url: URL;
}

const MAX_REDIRECTS = 10;
const REDIRECTS = new Set([301, 302, 303, 307, 308]);

/**
 * Sends a request and follows redirections; the answer's body is the caller's to read or destroy. Credentials stay with the host
 * they were meant for. Throws Node's own errors of sockets and TLS, and HttpTimeout.
 */
export async function send(request: HttpRequest): Promise<Answer> {
  let url = new URL(request.url);
  let { headers, method, body } = request;
  for (let hops = 0; ; hops++) {
    const response = await again(() => once(url, { ...request, headers, method, body }));
    const { statusCode = 0, headers: answer } = response;
    if (!REDIRECTS.has(statusCode) || answer.location === undefined) return { response, url };
    response.destroy();
    if (hops >= MAX_REDIRECTS) throw new Error(`more than ${MAX_REDIRECTS} redirections from ${request.url}`);
    const next = new URL(answer.location, url);
    if (next.protocol !== 'http:' && next.protocol !== 'https:') throw new Error(`a redirection to ${next.protocol}`);
    if (!sameHost(url, next)) headers = without(headers, ['authorization', 'cookie']);
    if (method === 'POST' && statusCode <= 303) {
      method = 'GET';
      body = undefined;
      headers = without(headers, ['content-type', 'content-length']);
    }
    url = next;
  }
}

/** May what was meant for `from` go to `to`? Not to another host or port, and never out of TLS. */
function sameHost(from: URL, to: URL): boolean {
  if (from.hostname !== to.hostname) return false;
  if (from.protocol === to.protocol) return from.port === to.port;
  return from.protocol === 'http:' && to.protocol === 'https:';
}

function without(headers: HttpRequest['headers'], names: string[]): HttpRequest['headers'] {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !names.includes(name.toLowerCase())));
}

export class HttpTimeout extends Error {
  readonly code = 'ETIMEDOUT';
}

/** A kept connection may have been closed by the other side a moment ago: that says nothing about the registry. */
async function again<T>(attempt: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof StaleConnection)) throw error;
      if (tries >= 3) throw error.cause;
    }
  }
}

class StaleConnection extends Error {}

function once(url: URL, options: HttpRequest): Promise<http.IncomingMessage> {
  const { promise, resolve, reject } = Promise.withResolvers<http.IncomingMessage>();
  const { host, protocol } = url;
  const settings = { method: options.method, headers: options.headers, agent: agentFor(protocol, options.tls) };
  const request = protocol === 'https:' ? https.request(url, settings) : http.request(url, settings);
  let timer = setTimeout(
    () => request.destroy(new HttpTimeout(`no connection to ${host} within ${options.dialTimeoutMs} ms`)),
    options.dialTimeoutMs,
  );
  const connected = () => {
    clearTimeout(timer);
    timer = setTimeout(
      () => request.destroy(new HttpTimeout(`no answer from ${host} within ${options.answerTimeoutMs} ms`)),
      options.answerTimeoutMs,
    );
  };
  request.once('socket', (socket) => {
    const shaking = 'secureConnecting' in socket && socket.secureConnecting === true;
    if (!socket.connecting && !shaking) connected();
    else socket.once(protocol === 'https:' ? 'secureConnect' : 'connect', connected);
  });
  request.once('error', (error) => {
    clearTimeout(timer);
    const closed = ['ECONNRESET', 'EPIPE'].includes((error as NodeJS.ErrnoException).code ?? '');
    reject(request.reusedSocket && closed ? new StaleConnection(error.message, { cause: error }) : error);
  });
  request.once('response', (response) => {
    clearTimeout(timer);
    // Errors after this one belong to the body, and come out where it is read.
    request.on('error', () => {});
    resolve(response);
  });
  request.end(options.body);
  return promise;
}

const IDLE_MS = 15_000;
const agents = new Map<string, http.Agent>();

/** One pool of connections for each way of speaking TLS; connections are kept a little, since layers follow each other. */
function agentFor(protocol: string, tls: TlsOptions): http.Agent {
  const key = protocol === 'http:' ? 'http' : JSON.stringify(tls);
  const known = agents.get(key);
  if (known) return known;
  const settings = { keepAlive: true, timeout: IDLE_MS, proxyEnv: process.env };
  const agent =
    protocol === 'http:'
      ? new http.Agent(settings)
      : new https.Agent({ ...settings, secureContext: contextFor(tls), rejectUnauthorized: !tls.skipVerify });
  agents.set(key, agent);
  return agent;
}

let systemCa: string[] | undefined;

/** As Go has it: the system's certificates count (a company's own CA is there), and those of the host's configuration with them. */
function contextFor(tls: TlsOptions): SecureContext {
  systemCa ??= [...new Set([...getCACertificates('system'), ...getCACertificates('extra'), ...rootCertificates])];
  return createSecureContext({
    ca: tls.skipVerify ? undefined : [...systemCa, ...tls.ca],
    cert: tls.client.map(({ cert }) => cert),
    key: tls.client.map(({ key }) => key),
  });
}
