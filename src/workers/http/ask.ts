import { brotliDecompressSync, gunzipSync, inflateSync, zstdDecompressSync } from 'node:zlib';
import { SluiceError } from '../../errors.ts';
import { type Exchange, exchange } from './exchange.ts';
import { unanswered } from './unanswered.ts';

/** A small request to a registry or a token server. */
export interface Question extends Omit<Exchange, 'signal' | 'silenceMs'> {
  /** Bytes of body that are read at most. */
  limit: number;
}

/** Its whole answer. */
export interface Reply {
  /** Where the last redirect led to. */
  url: string;
  status: number;
  headers: Record<string, string>;
  body: Uint8Array;
}

/** Milliseconds in which a server that has taken the connection must begin its answer. */
const SILENCE_MS = 60_000;
/** Milliseconds for the whole body: the largest is a manifest of 4 MiB or a config of 8. */
const BODY_MS = 120_000;

const DECODERS: Record<string, (data: Uint8Array, limit: { maxOutputLength: number }) => Buffer> = {
  gzip: gunzipSync,
  'x-gzip': gunzipSync,
  deflate: inflateSync,
  br: brotliDecompressSync,
  zstd: zstdDecompressSync,
};

/**
 * Sends the question, follows redirects, and reads the whole answer, decoded where a proxy on the way has compressed
 * it. Throws what {@link exchange} throws, and IMAGE_INVALID when the answer is longer than `limit`.
 */
export async function ask(question: Question): Promise<Reply> {
  const { limit } = question;
  const headers = { 'accept-encoding': 'identity', ...question.headers };
  const answer = await exchange({ ...question, headers, silenceMs: SILENCE_MS });
  const { url, status, body } = answer;
  const timer = setTimeout(() => body.destroy(new Error(`the answer took longer than ${BODY_MS / 1000} s`)), BODY_MS);
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of body as AsyncIterable<Buffer>) {
      chunks.push(chunk);
      size += chunk.length;
      if (size > limit) throw tooLong(url, limit);
    }
  } catch (error) {
    throw error instanceof SluiceError ? error : unanswered(url, error);
  } finally {
    clearTimeout(timer);
    body.destroy();
  }
  return { url, status, headers: answer.headers, body: decoded(Buffer.concat(chunks), answer.headers, { url, limit }) };
}

/** What is labelled compressed and does not decode is taken as it came: servers label files by their names. */
function decoded(
  body: Buffer,
  headers: Record<string, string>,
  { url, limit }: { url: string; limit: number },
): Buffer {
  let data = body;
  const codings = (headers['content-encoding'] ?? '').toLowerCase().split(',');
  for (const coding of codings.reverse()) {
    const decode = DECODERS[coding.trim()];
    if (!decode || data.length === 0) continue;
    try {
      data = decode(data, { maxOutputLength: limit });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ERR_BUFFER_TOO_LARGE') throw tooLong(url, limit);
      return body;
    }
  }
  return data;
}

function tooLong(url: string, limit: number): SluiceError {
  return new SluiceError('IMAGE_INVALID', `the answer of ${url} is longer than the allowed ${limit} bytes`);
}
