import { Agent as HttpAgent, request as http, type IncomingMessage } from 'node:http';
import { Agent as HttpsAgent, request as https } from 'node:https';
import { explain, SluiceError } from '../../errors.ts';
import { dialWithin } from './dial.ts';
import { redirection } from './redirect.ts';
import { secureContext, type Tls } from './secure.ts';

/** One small question to a registry or a token server. */
export interface Question {
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

export interface Answer {
  status: number;
  /** Those that stand once. WWW-Authenticate may stand several times, and is then joined by commas as RFC 9110 5.3 allows. */
  headers: Record<string, string>;
  body: Uint8Array;
}

/** `details` of the error when no answer came at all. */
export interface Silence {
  /** The system's or OpenSSL's code, for example ECONNREFUSED, EPROTO; else the words. */
  silence: string;
}

/** Milliseconds in which a server that has taken the connection must say something. */
const SILENCE_MS = 60_000;
/** Idle connections are kept this long for the next question. */
const KEEP_MS = 30_000;
const MAX_AGENTS = 64;

/**
 * Asks, follows redirections, and reads the whole answer. Throws REGISTRY_UNAVAILABLE with {@link Silence} as details when there is none,
 * IMAGE_INVALID when it is longer than `limit`, CONFIG_INVALID for useless certificates.
 */
export async function ask(question: Question): Promise<Answer> {
  let place = { url: question.url, headers: question.headers };
  for (let hops = 0; ; hops++) {
    const answer = await once({ ...question, ...place });
    const found = { status: answer.status, location: answer.headers.location, hops };
    const next = redirection(place, found, (words) => new SluiceError('REGISTRY_UNAVAILABLE', words));
    if (!next) return answer;
    place = next;
  }
}

function once({ method, url, headers, tls, body, dialTimeoutMs, limit }: Question): Promise<Answer> {
  const secure = url.startsWith('https:');
  const { promise, resolve, reject } = Promise.withResolvers<Answer>();
  const fail = (error: unknown) => reject(error instanceof SluiceError ? error : silence(url, error));
  const length: Record<string, string> =
    body === undefined ? {} : { 'content-length': String(Buffer.byteLength(body)) };
  const request = (secure ? https : http)(url, {
    method,
    agent: agentFor(secure, tls),
    timeout: SILENCE_MS,
    headers: { 'accept-encoding': 'identity', ...headers, ...length },
  });
  dialWithin(request, dialTimeoutMs);
  request.on('error', fail);
  request.on('timeout', () => request.destroy(new Error(`silent for ${SILENCE_MS / 1000} s`)));
  request.on('response', (message) => {
    const chunks: Buffer[] = [];
    let size = 0;
    message.on('error', fail);
    message.on('data', (chunk: Buffer) => {
      chunks.push(chunk);
      size += chunk.length;
      if (size <= limit) return;
      request.destroy(new SluiceError('IMAGE_INVALID', `${url} is longer than ${limit} bytes, which it must not be`));
    });
    message.on('end', () =>
      resolve({ status: message.statusCode ?? 0, headers: headersOf(message), body: Buffer.concat(chunks) }),
    );
    message.on('close', () => {
      if (!message.complete) fail(request.errored ?? new Error('the answer ended early'));
    });
  });
  request.end(body);
  return promise;
}

function headersOf({ headers }: IncomingMessage): Record<string, string> {
  const single = Object.entries(headers).filter((entry): entry is [string, string] => typeof entry[1] === 'string');
  return Object.fromEntries(single);
}

function silence(url: string, cause: unknown): SluiceError {
  const error = new SluiceError('REGISTRY_UNAVAILABLE', `${new URL(url).host} does not answer`, {
    cause: inWords(cause),
  });
  error.details = { silence: (cause as NodeJS.ErrnoException).code ?? explain(cause) } satisfies Silence;
  return error;
}

/** Node tries all addresses of a name at once; the failure of all has no words of its own. */
function inWords(cause: unknown): unknown {
  if (!(cause instanceof AggregateError) || cause.message !== '') return cause;
  return new Error(cause.errors.map(explain).join(', '));
}

const agents = new Map<string, HttpAgent>();

function agentFor(secure: boolean, tls: Tls): HttpAgent {
  const key = secure ? JSON.stringify(tls) : 'http';
  const kept = agents.get(key);
  if (kept) return kept;
  // Proxies of the environment count, as they do for every Go runtime.
  const shared = { keepAlive: true, timeout: KEEP_MS, proxyEnv: process.env };
  const { rejectUnauthorized = true } = tls;
  const agent = secure
    ? new HttpsAgent({ ...shared, secureContext: secureContext(tls), rejectUnauthorized })
    : new HttpAgent(shared);
  // One that is still asking goes on; its idle connections end by themselves.
  for (const old of agents.keys()) if (agents.size >= MAX_AGENTS) agents.delete(old);
  agents.set(key, agent);
  return agent;
}
