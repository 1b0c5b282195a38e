import type { IncomingMessage } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { SluiceError } from '../../errors.ts';
import { HttpTimeout, send, type TlsOptions } from './http.ts';
import { backoffMs, isPassing, isUnreachable, MAX_RETRY_AFTER_MS, MAX_TRIES, retryAfterMs } from './retry.ts';

/** One host that may have a blob, and how it is asked. */
export interface BlobSource {
  /** For messages: host and port. */
  host: string;
  url: string;
  /** Authorization included. */
  headers: Record<string, string | string[]>;
  tls: TlsOptions;
  dialTimeoutMs: number;
}

export interface BlobJob {
  /** In the order they are tried. */
  sources: BlobSource[];
  digest: string;
  size: number;
  /** Milliseconds without a new byte, whatever is tried, after which it is over. */
  progressTimeoutMs: number;
}

/** What main wants to know, however the download ended. */
export interface DownloadReport {
  /** Requests that had to be repeated, on the same host or the next. */
  retries: number;
  /** Sources that could not be reached at all, by their place in the list. */
  unreachable: number[];
}

/** A source wants (other) credentials. Main gets them and starts again. */
export class Unauthorized extends Error {
  readonly source: number;
  /** WWW-Authenticate headers. */
  readonly challenges: string[];

  constructor(source: number, challenges: string[]) {
    super('unauthorized');
    this.source = source;
    this.challenges = challenges;
  }
}

/** An answer that brings no bytes. */
class Refusal extends Error {
  readonly status: number;
  readonly retryAfter: number | undefined;

  constructor(status: number, words: string, retryAfter?: number) {
    super(`${status}${words === '' ? '' : ` ${words}`}`);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** The server sent all it has, and it is not what the manifest says. */
class WrongSize extends Error {}

const ANSWER_MS = 30_000;
/** A silent connection is replaced long before the pull is given up. */
const STALL_MS = 30_000;

/**
 * The bytes of a blob. Broken and silent connections are replaced and the rest is asked for (Range); a host that stays away is
 * replaced by the next. Throws {@link Unauthorized}, REGISTRY_UNAVAILABLE, REGISTRY_DENIED, IMAGE_NOT_FOUND, IMAGE_INVALID (size),
 * TIMED_OUT.
 */
export async function* download(job: BlobJob, report: DownloadReport): AsyncGenerator<Buffer> {
  const { sources, size } = job;
  const failures: { host: string; error: unknown }[] = [];
  let offset = 0;
  let lastByte = performance.now();
  for (const [index, source] of sources.entries()) {
    for (let tries = 1; ; tries++) {
      let failure: unknown;
      try {
        for await (const chunk of body(job, source, index, offset)) {
          if (offset + chunk.length > size) throw new WrongSize(`more than the ${size} bytes of the manifest`);
          offset += chunk.length;
          tries = 1;
          lastByte = performance.now();
          yield chunk;
        }
        if (offset === size) return;
        failure = new WrongSize(`${offset} bytes, where the manifest says ${size}`);
      } catch (error) {
        if (error instanceof Unauthorized) throw error;
        failure = error;
      }
      const silent = performance.now() - lastByte;
      if (silent >= job.progressTimeoutMs) {
        throw new SluiceError('TIMED_OUT', `no new byte of ${job.digest} in ${Math.round(silent / 1000)} s`, {
          cause: failure,
        });
      }
      const pause = pauseBefore(failure, tries);
      if (pause === undefined || silent + pause > job.progressTimeoutMs) {
        failures.push({ host: source.host, error: failure });
        if (isUnreachable((failure as NodeJS.ErrnoException).code)) report.unreachable.push(index);
        if (index < sources.length - 1) report.retries++;
        break;
      }
      report.retries++;
      await sleep(pause);
    }
  }
  throw verdict(job.digest, failures);
}

/** Milliseconds until the same host is tried again; undefined: not at all. */
function pauseBefore(failure: unknown, tries: number): number | undefined {
  if (tries >= MAX_TRIES) return undefined;
  if (failure instanceof Refusal) {
    if (!isPassing(failure.status)) return undefined;
    const wanted = failure.retryAfter ?? backoffMs(tries);
    return wanted > MAX_RETRY_AFTER_MS ? undefined : Math.max(wanted, backoffMs(tries));
  }
  if (failure instanceof WrongSize) return undefined;
  return isUnreachable((failure as NodeJS.ErrnoException).code) ? undefined : backoffMs(tries);
}

async function* body(job: BlobJob, source: BlobSource, index: number, offset: number): AsyncGenerator<Buffer> {
  const { response } = await send({
    url: source.url,
    method: 'GET',
    headers: {
      ...source.headers,
      'accept-encoding': 'identity',
      ...(offset > 0 ? { range: `bytes=${offset}-` } : undefined),
    },
    tls: source.tls,
    dialTimeoutMs: Math.min(source.dialTimeoutMs, job.progressTimeoutMs),
    answerTimeoutMs: Math.min(ANSWER_MS, job.progressTimeoutMs),
  });
  try {
    const { statusCode: status = 0, headers } = response;
    if (status === 401) throw new Unauthorized(index, challenges(response));
    if (status !== 200 && status !== 206) {
      throw new Refusal(status, await words(response), retryAfterMs(headers['retry-after']));
    }
    yield* fromOffset(steady(response, Math.min(STALL_MS, job.progressTimeoutMs)), skipped(response, offset));
  } finally {
    response.destroy();
  }
}

/** Bytes that an answer repeats: none when it honours the range, all when it ignores it. */
function skipped({ statusCode, headers }: IncomingMessage, offset: number): number {
  if (statusCode === 200) return offset;
  const start = Number(/^bytes (\d+)-/.exec(headers['content-range'] ?? '')?.[1] ?? offset);
  if (start > offset) throw new Error(`asked for bytes from ${offset} on, got them from ${start}`);
  return offset - start;
}

async function* fromOffset(source: AsyncIterable<Buffer>, skip: number): AsyncGenerator<Buffer> {
  for await (const chunk of source) {
    const rest = chunk.subarray(Math.min(skip, chunk.length));
    skip -= chunk.length - rest.length;
    if (rest.length > 0) yield rest;
  }
}

/** The body, which fails when nothing arrives for a while. */
async function* steady(response: IncomingMessage, stallMs: number): AsyncGenerator<Buffer> {
  const timer = setTimeout(() => response.destroy(new HttpTimeout(`no new byte in ${stallMs} ms`)), stallMs);
  try {
    for await (const chunk of response) {
      timer.refresh();
      yield chunk as Buffer;
    }
  } finally {
    clearTimeout(timer);
  }
}

/** All WWW-Authenticate headers of an answer; Node joins repeated ones of other names, but not this one's distinct values. */
export const challenges = (response: IncomingMessage) => response.headersDistinct['www-authenticate'] ?? [];

const MAX_WORDS = 4096;

/** What the registry says in its error answer: the messages of its JSON, or the first line of its text. */
export async function words(response: IncomingMessage): Promise<string> {
  let text = '';
  try {
    for await (const chunk of steady(response, 5000)) {
      text += chunk.toString();
      if (text.length > MAX_WORDS) break;
    }
  } catch {
    // The status alone says enough.
  }
  return wordsOf(text);
}

/** The messages in an error answer (OCI distribution specification, "Error Codes"). */
export function wordsOf(text: string): string {
  try {
    const { errors, details, message } = JSON.parse(text);
    if (Array.isArray(errors)) {
      return errors
        .map((error) => [error?.code, error?.message].filter((part) => typeof part === 'string').join(': '))
        .join('; ')
        .slice(0, 500);
    }
    for (const said of [details, message]) if (typeof said === 'string') return said.slice(0, 500);
  } catch {
    // no JSON
  }
  return (text.split('\n', 1)[0] ?? '')
    .replace(/<[^>]*>/g, ' ')
    .trim()
    .slice(0, 200);
}

/** What the failures of all hosts mean together; the last host is the registry itself, its word counts. */
function verdict(digest: string, failures: { host: string; error: unknown }[]): SluiceError {
  const last = failures.at(-1)?.error;
  const all = failures.map(({ host, error }) => `${host}: ${(error as Error).message}`).join('; ');
  if (last instanceof WrongSize) return new SluiceError('IMAGE_INVALID', `blob ${digest}: size: ${all}`);
  if (last instanceof Refusal && !isPassing(last.status)) {
    if (last.status === 404) return new SluiceError('IMAGE_NOT_FOUND', `blob ${digest} is not there: ${all}`);
    if (last.status === 403) return new SluiceError('REGISTRY_DENIED', `blob ${digest}: ${all}`);
  }
  return new SluiceError('REGISTRY_UNAVAILABLE', `RegistryUnavailable: blob ${digest}: ${all}`, { cause: last });
}
