import { closeSync, openSync, renameSync, rmSync, writeSync } from 'node:fs';
import { SluiceError } from '../../errors.ts';
import { type BlobDigest, blobDigest } from './blob-digest.ts';
import type { Download } from './download.ts';
import type { GiveWay } from './give-way.ts';
import { invalid } from './invalid.ts';
import { temporaryBeside } from './temporary.ts';
import { YoungGarbage } from './young-garbage.ts';

/**
 * The rest of a blob whose archive is bad is read only to learn whether its digest is wrong as well. Milliseconds for
 * all of it, and between two pieces.
 */
const REST_MS = 10_000;
const REST_SILENCE_MS = 1000;

export interface WantedBlob {
  /** `sha256:…` or `sha512:…` */
  digest: string;
  /** Bytes. */
  size: number;
  /** Where it is kept under its digest; absent: nowhere. */
  keep?: string;
}

/** A blob that is kept as it came; it gets its name with {@link settle}. */
class KeptBlob implements Disposable {
  readonly #path: string;
  readonly #temporary: string;
  readonly #fd: number;
  #open = true;

  constructor(path: string) {
    this.#path = path;
    this.#temporary = temporaryBeside(path);
    this.#fd = openSync(this.#temporary, 'wx', 0o600);
  }

  write(piece: Buffer): void {
    for (let at = 0; at < piece.length; ) at += writeSync(this.#fd, piece, at, piece.length - at);
  }

  settle(): void {
    this.#open = false;
    closeSync(this.#fd);
    renameSync(this.#temporary, this.#path);
  }

  [Symbol.dispose](): void {
    if (!this.#open) return;
    this.#open = false;
    closeSync(this.#fd);
    rmSync(this.#temporary, { force: true });
  }
}

/** A download's pieces, and the digest of all of them. */
export class LayerBlob implements AsyncDisposable {
  /** A reader that stops early does not end the download. */
  readonly pieces: AsyncIterable<Buffer>;
  /** Seconds in which a late launch went first. */
  pauseSeconds = 0;
  readonly #download: AsyncGenerator<Buffer>;
  readonly #digest: string;
  readonly #hash: BlobDigest;
  readonly #abort: AbortController;
  readonly #way: GiveWay | undefined;
  readonly #garbage = new YoungGarbage();
  readonly #kept: KeptBlob | undefined;
  #whole = false;
  #failed = false;
  /** The digest of all bytes was compared. */
  #checked = false;

  constructor(download: Download, { digest, size, keep }: WantedBlob, abort: AbortController, way?: GiveWay) {
    using undo = new DisposableStack();
    this.#download = download[Symbol.asyncIterator]();
    this.#digest = digest;
    this.#kept = keep === undefined ? undefined : undo.use(new KeptBlob(keep));
    this.#hash = blobDigest(algorithmOf('digest', digest), size);
    undo.move();
    this.#abort = abort;
    this.#way = way;
    this.pieces = { [Symbol.asyncIterator]: () => ({ next: () => this.#next() }) };
  }

  /** Throws IMAGE_INVALID unless the whole blob has come and has its digest. */
  async check(): Promise<void> {
    this.#checked = true;
    compare('digest', this.#digest, await this.#hash.hex());
    this.#kept?.settle();
  }

  /**
   * After `error`: reads the rest, and throws when the digest is wrong as well. A download that fails meanwhile leaves
   * `error` standing.
   */
  async checkRest(error: SluiceError): Promise<void> {
    if (this.#failed || this.#checked) return;
    const silence = setTimeout(() => this.#abort.abort(), REST_SILENCE_MS);
    const end = setTimeout(() => this.#abort.abort(), REST_MS);
    try {
      while (!this.#whole) {
        await this.#next();
        silence.refresh();
      }
    } catch (cause) {
      // A length that is wrong says more than what was made of the bytes; else the caller throws the first error.
      if (isInvalid(cause)) throw invalid(`${(cause as Error).message}; ${error.message}`, error.cause);
      return;
    } finally {
      clearTimeout(silence);
      clearTimeout(end);
    }
    try {
      await this.check();
    } catch (cause) {
      throw invalid(`${(cause as Error).message}; ${error.message}`, error.cause);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#abort.abort(); // it may wait for a byte that nobody wants any more
    this.#kept?.[Symbol.dispose]();
    this.#hash[Symbol.dispose]();
    await this.#download.return(undefined);
  }

  async #next(): Promise<IteratorResult<Buffer>> {
    try {
      this.pauseSeconds += (this.#way?.give() ?? 0) / 1000;
      const next = await this.#download.next();
      if (next.done) this.#whole = true;
      else {
        const full = this.#hash.add(next.value);
        if (full) await full;
        this.#garbage.add(next.value.length);
        this.#kept?.write(next.value);
      }
      return next;
    } catch (error) {
      this.#failed = true;
      throw error;
    }
  }
}

/** Throws IMAGE_INVALID for a digest of another form. */
export function algorithmOf(what: string, digest: string): 'sha256' | 'sha512' {
  if (/^sha256:[0-9a-f]{64}$/.test(digest)) return 'sha256';
  if (/^sha512:[0-9a-f]{128}$/.test(digest)) return 'sha512';
  throw invalid(`the ${what} ${digest} is not a sha256 or sha512 digest`);
}

export function compare(what: string, expected: string, hex: string): void {
  const found = `${algorithmOf(what, expected)}:${hex}`;
  if (expected !== found) throw invalid(`the ${what} should be ${expected} and is ${found}`);
}

/** The image is wrong, and not this node or the way to it. */
export const isInvalid = (error: unknown) => error instanceof SluiceError && error.code === 'IMAGE_INVALID';
