import type { IncomingHttpHeaders } from 'node:http';
import type { Readable } from 'node:stream';
import type { Dispatcher } from 'undici';
import { SluiceError } from '../../errors.ts';
import { type Connection, dispatcherFor } from './dispatchers.ts';
import { isParserError, isWithinReach, lenientRequest, needsLenience } from './lenient.ts';
import { redirection, type Target } from './redirect.ts';
import { type Unanswered, unanswered } from './unanswered.ts';

/** One request, with the redirects it leads to. */
export interface Exchange extends Target, Connection {
  /** Authorization headers by origin (`https://host:port`): each hop of a redirect gets its own or none. */
  authorizations: Record<string, string>;
  /** Milliseconds in which the server must begin its answer once it has been sent the request. */
  silenceMs: number;
  signal?: AbortSignal;
}

export interface Answer {
  /** Where the last redirect led to. */
  url: string;
  status: number;
  headers: Record<string, string>;
  /** Unread; must be read or destroyed. */
  body: Readable;
}

/** Bytes of a redirect's own body that are read to keep its connection. */
const DUMP_LIMIT = 64 << 10;

/**
 * Sends a request, follows its redirects and returns the last answer. Throws REGISTRY_UNAVAILABLE with
 * {@link Unanswered} as its details when no answer came, and CONFIG_INVALID for useless certificates or proxies. The
 * reason of `signal` is thrown as it is.
 */
export async function exchange(wanted: Exchange): Promise<Answer> {
  let target: Target = wanted;
  for (let hops = 0; ; hops++) {
    const answer = await once({ ...wanted, ...target });
    const found = { status: answer.status, location: answer.headers.location, hops };
    let next: Target | undefined;
    try {
      next = redirection(target, found, (words) => new SluiceError('REGISTRY_UNAVAILABLE', words));
    } catch (error) {
      answer.body.destroy();
      throw error;
    }
    if (!next) return answer;
    await dumped(answer.body);
    target = next;
  }
}

/** Reads a short body, so that its connection can be used again; a longer one costs the connection. */
async function dumped(body: Readable): Promise<void> {
  const { dump } = body as Partial<Dispatcher.ResponseData['body']>;
  if (dump) await dump.call(body, { limit: DUMP_LIMIT });
  else body.destroy();
}

async function once(wanted: Exchange): Promise<Answer> {
  const { method, url, headers, body, authorizations, silenceMs, signal } = wanted;
  const place = new URL(url);
  const dispatcher = dispatcherFor(place, wanted);
  const silence = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const onSent = () => {
    timer = setTimeout(() => silence.abort(unanswered(url, silent(silenceMs), 'SILENT')), silenceMs);
  };
  const authorization = authorizations[place.origin];
  const sent = { ...headers, ...(authorization === undefined ? {} : { authorization }) };
  const ended = signal ? AbortSignal.any([signal, silence.signal]) : silence.signal;
  const again = async (): Promise<Answer> => {
    const answer = await lenientRequest({ ...wanted, headers: sent, signal: signal ?? new AbortController().signal });
    return answerOf(url, answer.status, answer.headers, answer.body);
  };
  try {
    const answer = await dispatcher.compose(whenSent(onSent)).request({
      origin: place.origin,
      path: `${place.pathname}${place.search}`,
      method,
      headers: sent,
      body,
      signal: ended,
      headersTimeout: 0,
      bodyTimeout: 0,
    });
    const found = answerOf(url, answer.statusCode, answer.headers, answer.body);
    if (!needsLenience(found.headers) || !isWithinReach(url)) return found;
    found.body.destroy();
    return await again();
  } catch (error) {
    if (isParserError(error) && !ended.aborted && isWithinReach(url))
      return await again().catch((cause) => Promise.reject(unanswered(url, cause)));
    signal?.throwIfAborted();
    throw error instanceof SluiceError ? error : unanswered(url, error);
  } finally {
    clearTimeout(timer);
  }
}

function answerOf(url: string, status: number, headers: IncomingHttpHeaders, body: Readable): Answer {
  // A reader gets a body's error from its iterator; one that is destroyed unread would throw it at nobody.
  body.on('error', () => {});
  return { url, status, headers: single(headers), body };
}

/** Calls `onSent` when the request goes out on a connection; until then the dial timeout limits the wait. */
const whenSent =
  (onSent: () => void): Dispatcher.DispatcherComposeInterceptor =>
  (dispatch) =>
  (options, handler) => {
    const start = handler.onRequestStart?.bind(handler);
    handler.onRequestStart = (controller, context) => {
      onSent();
      start?.(controller, context);
    };
    return dispatch(options, handler);
  };

const silent = (ms: number) => new Error(`no answer within ${ms / 1000} s`);

/** Headers that stand several times are joined by commas (RFC 9110 5.3), WWW-Authenticate among them. */
function single(headers: IncomingHttpHeaders): Record<string, string> {
  const entries = Object.entries(headers).flatMap(([name, value]) =>
    value === undefined ? [] : [[name, Array.isArray(value) ? value.join(', ') : value] as const],
  );
  return Object.fromEntries(entries);
}
