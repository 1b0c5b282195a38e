import type { ClientRequestArgs, IncomingMessage } from 'node:http';
import { request as https } from 'node:https';
import { request as http } from '../../sys/http.ts';
import type { Connection } from './dispatchers.ts';
import type { Target } from './redirect.ts';
import { secureContext } from './tls.ts';

export interface LenientRequest extends Target, Connection {
  /** Milliseconds in which the answer must begin. */
  silenceMs: number;
  signal: AbortSignal;
}

/**
 * Does an answer break the rules that undici keeps to, and Go does not: a length beside chunks, of which the chunks
 * count?
 */
export const needsLenience = (headers: Record<string, unknown>): boolean =>
  headers['content-length'] !== undefined && headers['transfer-encoding'] !== undefined;

/**
 * Errors of undici's parser, in place of an answer, that Node's lenient one may take. undici reports the mismatch of a
 * length also for what it could not parse.
 */
export function isParserError(error: unknown): boolean {
  const { name, code } = error as NodeJS.ErrnoException;
  return name === 'HTTPParserError' || code === 'UND_ERR_RES_CONTENT_LENGTH_MISMATCH';
}

/**
 * Sends a request with Node's own client and its lenient parser (`insecureHTTPParser`). Its answers could smuggle
 * others into a shared connection, so this one is not kept and carries one request; what comes over it is verified by
 * digest like everything else.
 */
export function lenientRequest(wanted: LenientRequest): Promise<IncomingMessage> {
  const { method, url, headers, body, tls, silenceMs, signal } = wanted;
  const secure = url.startsWith('https:');
  const options: ClientRequestArgs = { method, headers, signal, agent: false, insecureHTTPParser: true };
  const security = secure
    ? { secureContext: secureContext(tls), rejectUnauthorized: tls.rejectUnauthorized ?? true }
    : {};
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
  const request = (secure ? https : http)(url, { ...options, ...security, timeout: silenceMs }, resolve);
  request.on('timeout', () => request.destroy(new Error(`no answer within ${silenceMs / 1000} s`)));
  request.on('error', reject);
  request.end(body);
  return promise;
}
