/** The HTTP client for manifests, configs and tokens: small answers, read whole. Layers are streamed by the image workers. */
import http from 'node:http';
import https from 'node:https';
import { createSecureContext, getCACertificates, type SecureContext } from 'node:tls';
import { explain, SluiceError } from '../../errors.ts';
import { VERSION } from '../version.ts';
import type { Tls } from './hosts.ts';

export const USER_AGENT = `sluice/${VERSION}`;

export interface Request {
  method: 'GET' | 'HEAD' | 'POST';
  url: string;
  headers: Record<string, string>;
  tls: Tls;
  body?: string;
  /** Milliseconds to get a connection. */
  dialTimeoutMs: number;
  /** Bytes of body that are read at most. */
  limit: number;
}

export interface Response {
  status: number;
  headers: http.IncomingHttpHeaders;
  body: Buffer;
  /** Where the answer came from, after redirects. */
  url: string;
}

/** Milliseconds in which a server that has taken the connection must say something. */
const SILENCE_MS = 60_000;
const MAX_REDIRECTS = 10;
const REDIRECTS = new Set([301, 302, 303, 307, 308]);
/** Idle connections are kept this long for the next pull. */
const KEEP_MS = 30_000;

/** Thrown when no answer came at all. */
export class NoAnswer extends SluiceError {
  /** The system's or OpenSSL's code, for example ECONNREFUSED, EPROTO. */
  readonly reason: string;

  constructor(url: string, cause: unknown) {
    super('REGISTRY_UNAVAILABLE', `${new URL(url).host} does not answer`, { cause });
    this.reason = (cause as NodeJS.ErrnoException).code ?? explain(cause);
  }
}

/** Connections by TLS settings, kept for the next request. */
export class HttpClient implements Disposable {
  readonly #agents = new Map<string, http.Agent>();

  /**
   * One request and its whole answer, redirects followed (the Authorization header goes to no other host, as RFC 9110 15.4 asks).
   * Throws {@link NoAnswer} when there is none, IMAGE_INVALID when it is longer than `limit`.
   */
  async request(request: Request): Promise<Response> {
    let { url, headers } = request;
    for (let redirects = 0; ; redirects++) {
      const response = await this.#once({ ...request, url, headers });
      const { location } = response.headers;
      if (!REDIRECTS.has(response.status) || location === undefined) return response;
      if (redirects === MAX_REDIRECTS)
        throw new SluiceError('REGISTRY_UNAVAILABLE', `${request.url} is redirected more than ${MAX_REDIRECTS} times`);
      const next = new URL(location, url);
      if (next.protocol !== 'http:' && next.protocol !== 'https:')
        throw new SluiceError('REGISTRY_UNAVAILABLE', `${request.url} is redirected to ${next.protocol}`);
      if (next.origin !== new URL(url).origin) headers = without(headers, 'authorization');
      url = next.href;
    }
  }

  [Symbol.dispose](): void {
    for (const agent of this.#agents.values()) agent.destroy();
    this.#agents.clear();
  }

  #once({ method, url, headers, tls, body, dialTimeoutMs, limit }: Request): Promise<Response> {
    const secure = url.startsWith('https:');
    return new Promise((resolve, reject) => {
      const fail = (error: unknown) => {
        clearTimeout(dial);
        reject(error instanceof SluiceError ? error : new NoAnswer(url, error));
      };
      const request = (secure ? https : http).request(url, {
        method,
        agent: this.#agent(secure, tls),
        timeout: SILENCE_MS,
        headers: {
          'user-agent': USER_AGENT,
          ...headers,
          ...(body === undefined ? {} : { 'content-length': String(Buffer.byteLength(body)) }),
        },
      });
      const dial = setTimeout(
        () => request.destroy(new Error(`no connection within ${dialTimeoutMs} ms`)),
        dialTimeoutMs,
      );
      request.on('error', fail);
      request.on('timeout', () => request.destroy(new Error(`silent for ${SILENCE_MS / 1000} s`)));
      request.on('socket', (socket) => {
        if (request.reusedSocket) clearTimeout(dial);
        else socket.once(secure ? 'secureConnect' : 'connect', () => clearTimeout(dial));
      });
      request.on('response', (message) => {
        clearTimeout(dial);
        const chunks: Buffer[] = [];
        let size = 0;
        message.on('error', fail);
        message.on('data', (chunk: Buffer) => {
          chunks.push(chunk);
          size += chunk.length;
          if (size > limit)
            request.destroy(
              new SluiceError('IMAGE_INVALID', `${url} is longer than ${limit} bytes, which it must not be`),
            );
        });
        message.on('end', () => {
          const { statusCode: status = 0, headers: answered } = message;
          resolve({ status, headers: answered, body: Buffer.concat(chunks), url });
        });
        message.on('close', () => {
          if (!message.complete) fail(request.errored ?? new Error('the answer ended early'));
        });
      });
      request.end(body);
    });
  }

  #agent(secure: boolean, tls: Tls): http.Agent {
    const key = secure ? JSON.stringify(tls) : 'http';
    let agent = this.#agents.get(key);
    if (!agent) {
      // Proxies of the environment count, as they do for every Go runtime.
      const shared = { keepAlive: true, timeout: KEEP_MS, proxyEnv: process.env };
      const { rejectUnauthorized = true } = tls;
      agent = secure
        ? new https.Agent({ ...shared, secureContext: contextOf(tls), rejectUnauthorized })
        : new http.Agent(shared);
      this.#agents.set(key, agent);
    }
    return agent;
  }
}

function without(headers: Record<string, string>, name: string): Record<string, string> {
  return Object.fromEntries(Object.entries(headers).filter(([key]) => key.toLowerCase() !== name));
}

/** Own authorities come on top of the machine's: a redirect to a public CDN must work as before. Throws CONFIG_INVALID. */
function contextOf({ ca = [], cert, key }: Tls): SecureContext {
  const all = new Set([...getCACertificates('default'), ...getCACertificates('system'), ...ca]);
  try {
    return createSecureContext({ ca: [...all], cert, key });
  } catch (cause) {
    throw new SluiceError('CONFIG_INVALID', `the registry's certificates cannot be used: ${explain(cause)}`, { cause });
  }
}
