import { Agent as HttpAgent, request as http, type IncomingMessage } from 'node:http';
import { Agent as HttpsAgent, request as https } from 'node:https';
import { SluiceError } from '../../errors.ts';
import { dialWithin, NoConnection } from './dial.ts';
import { invalid } from './invalid.ts';
import { redirection } from './redirect.ts';
import { secureContext, type Tls } from './secure.ts';

export interface Get {
  url: string;
  headers: Record<string, string>;
  tls: Tls;
  /** Milliseconds to get a connection. */
  dialTimeoutMs: number;
  /** Gives up when no byte has come for so long. */
  progressTimeoutMs: number;
  /** What is left of that for the beginning of this answer. */
  patienceMs: number;
  signal: AbortSignal;
}

/** A failure that the next try may not have: connection trouble, 408, 429, 5xx. */
export class Transient extends Error {
  /** The server's own wish for when to come back. */
  readonly retryAfterMs: number | undefined;
  /** How many of the allowed failures it counts for: what took long is not tried as often. */
  readonly weight: number;

  constructor(message: string, options: { cause?: unknown; retryAfterMs?: number } = {}) {
    super(message, { cause: options.cause });
    this.retryAfterMs = options.retryAfterMs;
    this.weight = options.cause instanceof NoConnection ? 3 : 1;
  }
}

/**
 * GETs, follows redirects, and returns the 200 or 206 with its body unread. Throws {@link Transient}, REGISTRY_DENIED (details:
 * status and, for 401, the challenge), IMAGE_NOT_FOUND (404), TIMED_OUT, REGISTRY_UNAVAILABLE for the rest.
 */
export async function get(wanted: Get): Promise<IncomingMessage> {
  let place = { url: wanted.url, headers: wanted.headers };
  for (let hops = 0; ; hops++) {
    const response = await once({ ...wanted, ...place });
    const status = response.statusCode ?? 0;
    if (status === 200 || status === 206) return response;
    let next: typeof place | undefined;
    try {
      next = redirection(place, { status, location: response.headers.location, hops }, unavailable);
      if (!next) throw await refusal(place.url, response, status);
    } finally {
      response.destroy();
    }
    place = next;
  }
}

export function unavailable(message: string, cause?: unknown): SluiceError {
  return new SluiceError('REGISTRY_UNAVAILABLE', message, { cause });
}

export function stalled(url: string, ms: number): SluiceError {
  return new SluiceError('TIMED_OUT', `${host(url)} has sent nothing for ${ms / 1000} s`);
}

export function host(url: string): string {
  return new URL(url).host;
}

async function once({
  url,
  headers,
  tls,
  dialTimeoutMs,
  progressTimeoutMs,
  patienceMs,
  signal,
}: Get): Promise<IncomingMessage> {
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
  const secure = url.startsWith('https:');
  const environment = { proxyEnv: process.env as NodeJS.Dict<string> };
  const agent = secure
    ? new HttpsAgent({
        ...environment,
        secureContext: secureContext(tls),
        rejectUnauthorized: tls.rejectUnauthorized ?? true,
      })
    : new HttpAgent(environment);
  const request = (secure ? https : http)(url, { agent, headers, signal }, resolve);
  const timer = setTimeout(() => request.destroy(stalled(url, progressTimeoutMs)), patienceMs);
  dialWithin(request, dialTimeoutMs);
  request.on('error', (error: NodeJS.ErrnoException) => {
    if (error instanceof SluiceError || signal.aborted) return reject(error);
    if (isCertificate(error.code)) return reject(unavailable(`${host(url)}: ${error.message}`, error));
    reject(new Transient(`${host(url)}: ${error.message || error.code}`, { cause: error }));
  });
  request.end();
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
  }
}

/** Certificates do not become right by trying again. */
function isCertificate(code = ''): boolean {
  return /CERT|UNABLE_TO_|SELF_SIGNED|ERR_TLS_|ERR_SSL_|ERR_OSSL/.test(code);
}

async function refusal(url: string, response: IncomingMessage, status: number): Promise<Error> {
  const words = await said(response);
  const message = `${host(url)} answers ${status}${words && `: ${words}`}`;
  if (status === 401 || status === 403) {
    const error = new SluiceError('REGISTRY_DENIED', message);
    error.details = { status, challenge: response.headers['www-authenticate'] };
    return error;
  }
  if (status === 404) return new SluiceError('IMAGE_NOT_FOUND', message);
  if (status === 408 || status === 425 || status === 429 || status >= 500) {
    return new Transient(message, { retryAfterMs: retryAfter(response.headers['retry-after']) });
  }
  return unavailable(message);
}

/** The registry's own words: the messages of its error list, or the start of whatever it sent. */
async function said(response: IncomingMessage): Promise<string> {
  const timer = setTimeout(() => response.destroy(), 2000);
  let body = '';
  try {
    for await (const chunk of response) {
      body += String(chunk);
      if (body.length > 4096) break;
    }
  } catch {
    // The status is what counts; the words are a help when they are there.
  } finally {
    clearTimeout(timer);
    response.destroy();
  }
  try {
    const { errors } = JSON.parse(body) as { errors?: { code?: string; message?: string }[] };
    if (Array.isArray(errors))
      return errors.map(({ code, message }) => [code, message].filter(Boolean).join(' ')).join(', ');
  } catch {
    // No JSON: a proxy's page, mostly.
  }
  return body.replace(/\s+/g, ' ').trim().slice(0, 200);
}

function retryAfter(header: string | undefined): number | undefined {
  if (header === undefined) return undefined;
  const ms = /^[0-9]+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isFinite(ms) ? Math.max(ms, 0) : undefined;
}

/** Where the body of this answer begins in the blob, when `asked` was the first byte wanted. */
export function bodyStart(response: IncomingMessage, asked: number): number {
  if (response.statusCode !== 206) return 0;
  const start = /^bytes (\d+)-/.exec(response.headers['content-range'] ?? '')?.[1];
  if (start === undefined || Number(start) > asked) {
    throw invalid(`the registry was asked for bytes from ${asked} and answers ${response.headers['content-range']}`);
  }
  return Number(start);
}
