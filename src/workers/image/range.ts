import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { createGunzip, createInflate, createZstdDecompress } from 'node:zlib';
import { SluiceError } from '../../errors.ts';
import { type Answer, exchange } from '../http/exchange.ts';
import { asksAgain, backOffMs, retryAfterMs } from '../http/retry.ts';
import { isSuccess, reasonIn } from '../http/said.ts';
import { unansweredDetails } from '../http/unanswered.ts';
import type { BlobSource, Refusal, Renew } from './blob-source.ts';
import { invalid } from './invalid.ts';
import type { Patience } from './patience.ts';

const MAX_FAILURES = 5;
/** Bytes in one try after which earlier failures do not count any more. */
const PROGRESS = 1 << 20;
/** A host to which no connection comes about costs the whole dial timeout each time: it gets fewer tries. */
const WEIGHT_OF_DIAL = 3;
const WORDS_MS = 2000;
const WORDS_BYTES = 4096;
/** Refusals with which a store answers for a signed address that has expired. */
const EXPIRED = new Set([400, 401, 403, 404, 410]);

/** A blob while it is fetched, as all its connections share it. */
export interface Blob {
  source: BlobSource;
  /** Bytes that its descriptor says. */
  size: number;
  signal: AbortSignal;
  /** The first pause between tries in milliseconds, doubled each time. */
  retryDelayMs: number;
  renew?: Renew;
  /** Where the last redirect led to: the address in a store spares later requests the way over the registry. */
  direct?: string;
  /** Requests for ranges are useless: the server ignores them, or sends the blob in another coding. */
  noRanges: boolean;
  /** A range has been used, so that bytes of two answers were put together. */
  joined: boolean;
  /** Bytes received over all connections. */
  received: number;
}

/** The bytes that one reader fetches: from `at` up to `to`, which may be lowered while it reads. */
export interface Span {
  at: number;
  to: number;
}

export interface ReadOptions {
  patience: Patience;
  /**
   * Ask for the bytes of the span and no more; throws {@link RangesIgnored} where the server sends the whole blob
   * instead.
   */
  closed?: boolean;
  /** Called when the server has accepted the first request, before the first byte. */
  onAccepted?: () => void;
}

export class RangesIgnored extends Error {}

/** A failure that the next try may not have. */
class Transient extends Error {
  readonly retryAfterMs: number | undefined;
  /** How many of the allowed failures it counts for. */
  readonly weight: number;

  constructor(message: string, options: { cause?: unknown; retryAfterMs?: number; weight?: number } = {}) {
    super(message, { cause: options.cause });
    this.retryAfterMs = options.retryAfterMs;
    this.weight = options.weight ?? 1;
  }
}

/**
 * The bytes of `span`, in order. Broken connections, 408, 425, 429 and 5xx are tried again, up to five times without
 * progress, each time from the byte that was reached. Throws IMAGE_INVALID for a wrong length, REGISTRY_DENIED with a
 * {@link Refusal}, IMAGE_NOT_FOUND, TIMED_OUT, REGISTRY_UNAVAILABLE.
 */
export async function* readRange(blob: Blob, span: Span, options: ReadOptions): AsyncGenerator<Buffer> {
  let [tries, failures, renewals] = [0, 0, 0];
  let first = options.onAccepted;
  const onAccepted = () => {
    first?.();
    first = undefined;
  };
  do {
    const before = span.at;
    try {
      yield* readOnce(blob, span, { ...options, onAccepted });
    } catch (error) {
      if (span.at - before >= PROGRESS) [tries, failures] = [0, 0];
      if (span.at > before) renewals = 0;
      const refusal = refusalOf(error);
      if (refusal?.status === 401 && renewals++ === 0 && (await renewed(blob, refusal))) continue;
      if (!(error instanceof Transient)) throw error;
      tries++;
      failures += error.weight;
      if (failures > MAX_FAILURES) {
        const words = tries === 1 ? error.message : `${error.message}, after ${tries} tries`;
        throw new SluiceError('REGISTRY_UNAVAILABLE', words, { cause: error.cause });
      }
      await sleep(backOffMs(tries, blob.retryDelayMs, error.retryAfterMs), undefined, { signal: blob.signal });
    }
  } while (span.at < span.to);
}

function refusalOf(error: unknown): Refusal | undefined {
  return error instanceof SluiceError && error.code === 'REGISTRY_DENIED' ? (error.details as Refusal) : undefined;
}

async function renewed(blob: Blob, refusal: Refusal): Promise<boolean> {
  const authorizations = await blob.renew?.(refusal);
  if (!authorizations) return false;
  blob.source = { ...blob.source, authorizations };
  return true;
}

/** One request and its body. Throws {@link Transient} when the body ends too early. */
async function* readOnce(
  blob: Blob,
  span: Span,
  { patience, closed, onAccepted }: ReadOptions,
): AsyncGenerator<Buffer> {
  const { size } = blob;
  const asked = blob.noRanges && !closed ? 0 : span.at;
  const range = closed ? `bytes=${asked}-${span.to - 1}` : `bytes=${asked}-`;
  const answer = await get(blob, { range: closed || asked > 0 ? range : undefined, patience });
  try {
    if (closed && answer.status !== 206) throw new RangesIgnored();
    const { start, decoder } = placeOf(blob, answer, asked);
    onAccepted?.();
    let skip = span.at - start; // a server that ignores ranges sends the beginning again
    const body = new Body(blob, answer, { patience, known: decoder ? 0 : skip });
    const pieces = decoder ? (Readable.from(body).compose(decoder) as AsyncIterable<Buffer>) : body;
    for await (const piece of pieces) {
      const fresh = skip >= piece.length ? piece.subarray(piece.length) : piece.subarray(skip);
      skip -= piece.length - fresh.length;
      const room = span.to - span.at;
      if (fresh.length > room && span.to === size)
        throw invalid(`the layer has more than the ${size} bytes that its descriptor says`);
      const chunk = fresh.length > room ? fresh.subarray(0, room) : fresh;
      span.at += chunk.length;
      blob.received += chunk.length;
      if (chunk.length > 0) yield chunk;
      if (span.at === span.to && span.to < size) return;
    }
    if (span.at >= span.to) return;
    if (body.isWhole && !closed) throw wrongLength(span.at, size);
    throw new Transient(`${hostOf(answer.url)} closed the connection after ${span.at} of ${size} bytes`);
  } finally {
    answer.body.destroy();
  }
}

const wrongLength = (found: number, size: number) =>
  invalid(`the layer has ${found} bytes, its descriptor says ${size}`);

/** The pieces of a body; only time spent waiting for the registry counts against the patience. */
class Body {
  readonly #blob: Blob;
  readonly #answer: Answer;
  readonly #patience: Patience;
  /** Bytes at the beginning that came before: they are not progress. */
  #known: number;
  /** The body has come to the end that its headers announced. */
  isWhole = false;

  constructor(blob: Blob, answer: Answer, { patience, known }: { patience: Patience; known: number }) {
    this.#blob = blob;
    this.#answer = answer;
    this.#patience = patience;
    this.#known = known;
  }

  #fresh(bytes: number): number {
    const again = Math.min(bytes, this.#known);
    this.#known -= again;
    return bytes - again;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Buffer> {
    const { url, body, headers } = this.#answer;
    const host = hostOf(url);
    const pieces = body[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
    let waitingSince: number | undefined;
    let seen = 0;
    const allowedMs = this.#patience.perConnectionMs;
    const timer = setTimeout(() => {
      if (waitingSince === undefined) return;
      // When this thread was busy for long, bytes may be there that nobody has read: two turns of the event loop read
      // them.
      const before = seen;
      setImmediate(() =>
        setImmediate(() => {
          if (waitingSince !== undefined && seen === before)
            body.destroy(new Transient(`${host} has sent nothing for ${allowedMs / 1000} s`));
          else timer.refresh();
        }),
      );
    }, allowedMs);
    try {
      for (;;) {
        const began = performance.now();
        waitingSince = began;
        timer.refresh();
        let next: IteratorResult<Buffer> | undefined;
        try {
          next = await pieces.next();
        } finally {
          waitingSince = undefined;
          seen++;
          this.#patience.add(performance.now() - began, this.#fresh(next?.value?.length ?? 0), host);
        }
        if (next.done) break;
        yield next.value;
      }
      // Without either header the end of the body is the end of the connection, and may be an accident.
      this.isWhole = headers['content-length'] !== undefined || headers['transfer-encoding'] !== undefined;
    } catch (error) {
      this.#blob.signal.throwIfAborted();
      if (error instanceof SluiceError || error instanceof Transient) throw error;
      throw new Transient(`${host}: ${(error as Error).message}`, { cause: error });
    } finally {
      clearTimeout(timer);
    }
  }
}

/** Where the body of an answer begins in the blob, and what decodes it where a proxy on the way has compressed it. */
function placeOf(
  blob: Blob,
  { status, headers }: Answer,
  asked: number,
): { start: number; decoder?: NodeJS.ReadWriteStream } {
  const { size } = blob;
  // Where both are there, the chunks count (RFC 9112 6.3).
  const length = headers['transfer-encoding'] === undefined ? headers['content-length'] : undefined;
  // Unasked and without a place it is the whole.
  if (status === 206 && (asked > 0 || headers['content-range'] !== undefined)) {
    const [, from, total] = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(headers['content-range'] ?? '') ?? [];
    if (from === undefined || Number(from) > asked)
      throw invalid(`the registry was asked for bytes from ${asked} and answers ${headers['content-range']}`);
    if (total !== '*' && Number(total) !== size) throw wrongLength(Number(total), size);
    if (asked > 0) blob.joined = true;
    return { start: Number(from) };
  }
  if (length === String(size)) return { start: 0 }; // also Apache's files labelled `Content-Encoding: x-gzip`
  const decoder = decoderFor(headers['content-encoding']);
  if (decoder) blob.noRanges = true;
  else if (length !== undefined) throw wrongLength(Number(length), size);
  return { start: 0, decoder };
}

function decoderFor(coding: string | undefined): NodeJS.ReadWriteStream | undefined {
  switch (coding?.trim().toLowerCase()) {
    case 'gzip':
    case 'x-gzip':
      return createGunzip();
    case 'deflate':
      return createInflate();
    case 'zstd':
      return createZstdDecompress();
    default:
      return undefined;
  }
}

/** Sends a GET and returns the answer that has the blob or the range of it, its body unread. */
async function get(
  blob: Blob,
  { range, patience }: { range: string | undefined; patience: Patience },
): Promise<Answer> {
  for (;;) {
    const { direct, source } = blob;
    const headers = { ...source.headers, 'accept-encoding': 'identity', ...(range === undefined ? {} : { range }) };
    const began = performance.now();
    const silenceMs = patience.perConnectionMs;
    let answer: Answer;
    try {
      answer = await exchange({
        ...source,
        method: 'GET',
        url: direct ?? source.url,
        headers: direct === undefined ? headers : onlyPublic(headers),
        silenceMs,
        signal: blob.signal,
      });
    } catch (error) {
      const why = unansweredDetails(error);
      if (why?.unanswered === 'SILENT') patience.add(performance.now() - began, 0, hostOf(source.url));
      if (!why?.passing) throw error;
      const weight = why.unanswered === 'UND_ERR_CONNECT_TIMEOUT' ? WEIGHT_OF_DIAL : 1;
      throw new Transient((error as Error).message, { cause: (error as Error).cause, weight });
    }
    patience.add(performance.now() - began, 0, hostOf(answer.url));
    if (isSuccess(answer.status)) {
      if (direct === undefined && answer.url !== source.url) blob.direct = answer.url;
      return answer;
    }
    if (direct !== undefined && EXPIRED.has(answer.status)) {
      blob.direct = undefined;
      answer.body.destroy();
      continue;
    }
    throw await refused(blob, answer);
  }
}

const PUBLIC = new Set(['accept', 'accept-encoding', 'range', 'user-agent']);

function onlyPublic(headers: Record<string, string>): Record<string, string> {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => PUBLIC.has(name.toLowerCase())));
}

export function hostOf(url: string): string {
  return new URL(url).host;
}

async function refused({ source }: Blob, answer: Answer): Promise<Error> {
  const { url, status, headers } = answer;
  const words = source.foreign ? '' : await wordsOf(answer);
  const found = status === 404 ? ': not found' : '';
  const message = `${hostOf(url)} answers ${status}${words ? `: ${words}` : found}`;
  if (status === 401 || status === 403) {
    const error = new SluiceError('REGISTRY_DENIED', message);
    error.details = { status, challenge: headers['www-authenticate'], url } satisfies Refusal;
    return error;
  }
  if (status === 404) return new SluiceError('IMAGE_NOT_FOUND', message);
  if (asksAgain(status) || status >= 500)
    return new Transient(message, { retryAfterMs: retryAfterMs(headers['retry-after']) });
  return new SluiceError('REGISTRY_UNAVAILABLE', message);
}

async function wordsOf({ body }: Answer): Promise<string> {
  const timer = setTimeout(() => body.destroy(), WORDS_MS);
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of body as AsyncIterable<Buffer>) {
      chunks.push(chunk);
      size += chunk.length;
      if (size > WORDS_BYTES) break;
    }
  } catch {
    // The status decides what happens; the words only help whoever reads the message.
  } finally {
    clearTimeout(timer);
    body.destroy();
  }
  return reasonIn(Buffer.concat(chunks));
}
