import { createHash } from 'node:crypto';
import { chmodSync, mkdirSync, renameSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { SluiceError } from '../../errors.ts';
import { measureTree, type Usage } from '../measure-tree.ts';
import { Applier } from './apply.ts';
import { decodeError, detect } from './decompress.ts';
import { Download } from './download.ts';
import { invalid } from './invalid.ts';
import { toBytes } from './names.ts';
import type { Tls } from './secure.ts';
import { TarReader } from './tar.ts';
import { removeTree } from './tree.ts';

/** The rest of a blob that is known to be bad is read only to say why: milliseconds for all of it, and without a byte. */
const REST_MS = 10_000;
const REST_SILENCE_MS = 1000;

export interface FetchLayer {
  url: string;
  headers: Record<string, string>;
  tls: Tls;
  /** Milliseconds to get a connection. */
  dialTimeoutMs: number;
  /** Of the blob as the registry has it: `sha256:…`, and its bytes. */
  digest: string;
  size: number;
  /** Of the archive once it is decompressed. */
  diffId: string;
  /** Only for messages: the format is told by the first bytes. */
  mediaType: string;
  /** What shall be the layer's folder; the files come into its `fs`. A folder that is there already stays. */
  dir: string;
  progressTimeoutMs: number;
  /** First pause before a retry, doubled each time. Default 250 ms. */
  retryDelayMs?: number;
}

export interface FetchedLayer extends Usage {
  /** Time spent waiting for the registry, and all the rest: together the whole time. */
  downloadSeconds: number;
  unpackSeconds: number;
  /**
   * Folders (paths in the layer, one byte per character) that the archive needs and does not bring: root's with 0755 until
   * dressFolders has given them the looks that they have below. Nearly always empty: builders write folders.
   */
  implied: string[];
}

/**
 * Downloads, verifies, decompresses, verifies and unpacks one layer in one pass: no byte is stored but the files themselves,
 * and they get their name only when both digests are right. Anything else leaves nothing behind (but after a crash
 * `DIR.tmp-…`, for removeLayer).
 *
 * Throws IMAGE_INVALID, REGISTRY_DENIED (details `{status, challenge}`: a 401 asks for a new token and another call),
 * IMAGE_NOT_FOUND, REGISTRY_UNAVAILABLE, TIMED_OUT, DISK_FULL.
 */
export async function fetchLayer(layer: FetchLayer): Promise<FetchedLayer> {
  const began = performance.now();
  const temporary = temporaryBeside(layer.dir);
  const abort = new AbortController();
  const download = new Download({ ...layer, signal: abort.signal });
  try {
    mkdirSync(dirname(temporary), { recursive: true, mode: 0o700 });
    mkdirSync(temporary, { mode: 0o700 });
    mkdirSync(`${temporary}/fs`, { mode: 0o755 });
    chmodSync(`${temporary}/fs`, 0o755); // whatever the umask is
    const implied = await unpack(layer, download, `${temporary}/fs`, abort);
    const used = await measureTree(temporary);
    await settle(temporary, layer.dir);
    const downloadSeconds = download.seconds;
    return { ...used, implied, downloadSeconds, unpackSeconds: (performance.now() - began) / 1000 - downloadSeconds };
  } catch (error) {
    await removeTree(toBytes(temporary));
    throw named(error, layer);
  }
}

/** A name beside `dir` that tells everybody, after a crash too, that nothing in it counts. */
export function temporaryBeside(dir: string): string {
  return `${dir}.tmp-${crypto.randomUUID().slice(0, 8)}`;
}

/** Gives a finished layer its name. Two may have made the same one: the first stays. */
export async function settle(temporary: string, dir: string): Promise<void> {
  try {
    renameSync(temporary, dir);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOTEMPTY' && code !== 'EEXIST') throw error;
    await removeTree(toBytes(temporary));
  }
}

async function unpack(layer: FetchLayer, download: Download, root: string, abort: AbortController): Promise<string[]> {
  const applier = new Applier(toBytes(root));
  const reader = new TarReader(applier);
  const archive = createHash('sha256');
  await using blob = new Blob(download, abort);
  let format = 'tar';
  let failed = false;
  const consume = async (pieces: AsyncIterable<Buffer>) => {
    for await (const piece of pieces) {
      if (failed) return;
      archive.update(piece);
      reader.write(piece);
    }
  };
  try {
    const found = await detect(blob.pieces);
    format = found.format;
    if (found.decoder) await decode(found.pieces, found.decoder, consume);
    else await consume(found.pieces);
    // A decoder may be content before the end; the rest of the blob still counts for its digest.
    blob.check(layer.digest);
    compare('diffID', layer.diffId, archive.digest('hex'));
    reader.end();
    applier.finish();
    return [...applier.implied];
  } catch (cause) {
    failed = true;
    const error = decodeError(format, cause);
    // Bytes that came to harm on the way look like a bad archive: the digest tells the two apart.
    if (error instanceof SluiceError && error.code === 'IMAGE_INVALID') await blob.checkRest(layer.digest, error);
    throw error;
  } finally {
    applier.close();
  }
}

/** A pipeline that fails at once, also while its source still waits for a byte. */
async function decode(
  pieces: AsyncIterable<Buffer>,
  decoder: Transform,
  consume: (pieces: AsyncIterable<Buffer>) => Promise<void>,
): Promise<void> {
  const { promise: first, reject } = Promise.withResolvers<never>();
  decoder.once('error', reject);
  const whole = pipeline(pieces, decoder, (decoded: AsyncIterable<Buffer>) => {
    const consumed = consume(decoded);
    consumed.catch(reject);
    return consumed;
  });
  await Promise.race([whole, first]);
}

/** A download's pieces, and the digest of all of them. */
class Blob implements AsyncDisposable {
  /** The reader may leave early without ending the download. */
  readonly pieces: AsyncIterable<Buffer>;
  readonly #source: AsyncGenerator<Buffer>;
  readonly #hash = createHash('sha256');
  readonly #abort: AbortController;
  #whole = false;
  #failed = false;

  constructor(download: Download, abort: AbortController) {
    this.#source = download[Symbol.asyncIterator]();
    this.#abort = abort;
    this.pieces = { [Symbol.asyncIterator]: () => ({ next: () => this.#next() }) };
  }

  check(expected: string): void {
    compare('digest', expected, this.#hash.digest('hex'));
  }

  /**
   * After `error`: reads what is left, and throws when the digest is wrong as well. A download that fails or stops meanwhile leaves it
   * at the first error.
   */
  async checkRest(expected: string, error: SluiceError): Promise<void> {
    if (this.#failed) return;
    const silence = setTimeout(() => this.#abort.abort(), REST_SILENCE_MS);
    const end = setTimeout(() => this.#abort.abort(), REST_MS);
    try {
      while (!this.#whole) {
        await this.#next();
        silence.refresh();
      }
    } catch {
      return; // the first error is the one that counts
    } finally {
      clearTimeout(silence);
      clearTimeout(end);
    }
    try {
      this.check(expected);
    } catch (cause) {
      throw invalid(`${(cause as Error).message}; ${error.message}`, error.cause);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#abort.abort(); // it may be waiting for a byte that nobody wants any more
    await this.#source.return(undefined);
  }

  async #next(): Promise<IteratorResult<Buffer>> {
    try {
      const next = await this.#source.next();
      if (next.done) this.#whole = true;
      else this.#hash.update(next.value);
      return next;
    } catch (error) {
      this.#failed = true;
      throw error;
    }
  }
}

function compare(what: string, expected: string, hex: string): void {
  if (!/^sha256:[0-9a-f]{64}$/.test(expected)) throw invalid(`the ${what} ${expected} is no sha256 digest`);
  if (expected !== `sha256:${hex}`) throw invalid(`the ${what} should be ${expected} and is sha256:${hex}`);
}

/** The error, with the layer it is about. */
function named(error: unknown, { digest, mediaType }: FetchLayer): SluiceError {
  const what = `layer ${digest}`;
  if (!(error instanceof SluiceError))
    return new SluiceError(isFull(error) ? 'DISK_FULL' : 'INTERNAL', what, { cause: error });
  // kubelet reads the beginning of these.
  if (error.code === 'REGISTRY_UNAVAILABLE') return error;
  const again = new SluiceError(error.code, `${what} (${mediaType}): ${error.message}`, { cause: error.cause });
  again.details = error.details;
  return again;
}

function isFull(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === 'ENOSPC' || code === 'EDQUOT';
}
