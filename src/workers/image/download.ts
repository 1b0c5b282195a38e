import { createReadStream } from 'node:fs';
import { SluiceError } from '../../errors.ts';
import type { BlobSource, Renew } from './blob-source.ts';
import { invalid } from './invalid.ts';
import { Patience } from './patience.ts';
import { type Blob, hostOf, RangesIgnored, readRange, type Span } from './range.ts';

export interface DownloadOptions {
  source: BlobSource;
  /** Bytes the blob must have. */
  size: number;
  /** Milliseconds of waiting for the registry without a byte, or with hardly any, after which the download fails. */
  progressTimeoutMs: number;
  signal: AbortSignal;
  /** The first pause between tries, doubled each time. Default 250 ms. */
  retryDelayMs?: number;
  renew?: Renew;
  /** Fetch everything over one connection. */
  noRanges?: boolean;
  /** For tests: bytes of a part. */
  partBytes?: number;
}

/** Parts at work at once, and the bytes of each: together the most that a layer holds in memory ahead of its reader. */
const PARTS = 6;
const PART_BYTES = 4 << 20;
/**
 * Parts are used once this long has shown that the registry is the slower side: more than half of the time went by
 * waiting.
 */
const TRIAL_MS = 200;
const SLOW_SHARE = 0.5;
/**
 * A download as a whole may take this long, and longer in proportion to its size: no registry keeps a thread for ever.
 */
const FILE_PIECE = 256 << 10;
const TOTAL_MS = 30 * 60_000;
const TOTAL_BYTES_PER_SECOND = 50_000;

/**
 * The bytes of a blob, from the first to the last, once. One connection brings them as long as the reader is the slower
 * side; from a registry that limits each connection, several fetch parts ahead of the reader. Failures are handled by
 * {@link readRange}.
 */
export class Download {
  /** Seconds that the reader spent waiting for bytes. */
  seconds = 0;
  readonly blob: Blob;
  readonly #options: DownloadOptions;
  #parts: Part[] = [];
  /** Where the next part begins. */
  #next = 0;
  #trial: 'waiting' | 'asked' | 'over' = 'waiting';

  constructor(options: DownloadOptions) {
    const { source, size, signal, retryDelayMs = 250, renew, noRanges = false } = options;
    this.#options = options;
    this.blob = { source, size, signal, retryDelayMs, renew, noRanges, joined: false, received: 0 };
    if (noRanges) this.#trial = 'over';
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Buffer> {
    const began = performance.now();
    const totalMs = TOTAL_MS + (this.#options.size / TOTAL_BYTES_PER_SECOND) * 1000;
    try {
      for await (const chunk of this.#timed(this.#inOrder(began))) {
        if (performance.now() - began > totalMs) {
          const words = `${hostOf(this.blob.source.url)} has not sent the layer within ${Math.round(totalMs / 60_000)} min`;
          throw new SluiceError('TIMED_OUT', words);
        }
        yield chunk;
      }
    } finally {
      for (const part of this.#parts) part.drop();
    }
  }

  async *#timed(chunks: AsyncGenerator<Buffer>): AsyncGenerator<Buffer> {
    try {
      for (;;) {
        const began = performance.now();
        const next = await chunks.next();
        this.seconds += (performance.now() - began) / 1000;
        if (next.done) return;
        yield next.value;
      }
    } finally {
      await chunks.return(undefined);
    }
  }

  async *#inOrder(began: number): AsyncGenerator<Buffer> {
    const { size, progressTimeoutMs, source } = this.#options;
    if (source.url.startsWith('file:')) {
      yield* this.#fromFile(source.url);
      return;
    }
    const lead: Span = { at: 0, to: size };
    for await (const chunk of readRange(this.blob, lead, { patience: new Patience(progressTimeoutMs) })) {
      yield chunk;
      const elapsed = (performance.now() - began) / 1000;
      if (this.#trial === 'waiting' && elapsed > TRIAL_MS / 1000 && this.seconds > elapsed * SLOW_SHARE)
        this.#tryParts(lead);
    }
    let at = lead.at;
    try {
      for (let part = this.#parts[0]; part; part = this.#parts[0]) {
        for await (const chunk of part.read()) {
          at += chunk.length;
          yield chunk;
        }
        this.#parts.shift();
        this.#fill();
      }
    } catch (error) {
      if (!(error instanceof RangesIgnored)) throw error;
      // One of several servers behind one name does not do ranges: the rest comes over one connection.
      this.blob.noRanges = true;
      for (const part of this.#parts) part.drop();
      yield* readRange(this.blob, { at, to: size }, { patience: new Patience(progressTimeoutMs) });
    }
  }

  /** A blob that main has put on the disk: one of an imported archive. */
  async *#fromFile(url: string): AsyncGenerator<Buffer> {
    const { size, signal } = this.#options;
    for await (const chunk of createReadStream(new URL(url), { highWaterMark: FILE_PIECE, signal })) {
      this.blob.received += chunk.length;
      if (this.blob.received > size) throw invalid(`the layer has more than ${size} bytes`);
      yield chunk;
    }
    if (this.blob.received < size) throw invalid(`the layer has ${this.blob.received} bytes, and not ${size}`);
  }

  /**
   * Asks for one part; once the server has accepted that, the first connection ends where the part begins and more
   * parts follow.
   */
  #tryParts(lead: Span): void {
    const { size, partBytes = PART_BYTES } = this.#options;
    const from = lead.at + partBytes;
    this.#trial = 'over';
    if (this.blob.noRanges || size - from < partBytes) return;
    const part = this.#part(from, () => {
      if (lead.at > from || lead.to !== size) {
        part.drop();
        return;
      }
      lead.to = from;
      this.#parts = [part];
      this.#next = part.to;
      this.#fill();
    });
    part.failed.catch((error: unknown) => {
      if (error instanceof RangesIgnored) this.blob.noRanges = true;
    });
  }

  #fill(): void {
    while (this.#parts.length < PARTS && this.#next < this.#options.size) {
      const part = this.#part(this.#next);
      this.#next = part.to;
      this.#parts.push(part);
    }
  }

  #part(from: number, onAccepted?: () => void): Part {
    const { size, progressTimeoutMs, partBytes = PART_BYTES } = this.#options;
    const to = Math.min(from + partBytes, size);
    const patience = new Patience(progressTimeoutMs);
    return new Part(to, readRange(this.blob, { at: from, to }, { patience, closed: true, onAccepted }));
  }
}

/** A part that is fetched ahead of its reader; it is never larger than {@link PART_BYTES}. */
class Part {
  readonly to: number;
  /** Settles when the part has been fetched; rejects with the reason why not. */
  readonly failed: Promise<void>;
  readonly #source: AsyncGenerator<Buffer>;
  readonly #chunks: Buffer[] = [];
  #wake = Promise.withResolvers<void>();
  #done = false;
  #error: unknown;
  #dropped = false;

  constructor(to: number, source: AsyncGenerator<Buffer>) {
    this.to = to;
    this.#source = source;
    this.failed = this.#fetch();
    this.failed.catch(() => {}); // the reader throws it
  }

  async *read(): AsyncGenerator<Buffer> {
    for (;;) {
      for (let chunk = this.#chunks.shift(); chunk; chunk = this.#chunks.shift()) yield chunk;
      if (this.#error !== undefined) throw this.#error;
      if (this.#done) return;
      await this.#wake.promise;
    }
  }

  /** Its bytes are not wanted any more. */
  drop(): void {
    this.#dropped = true;
    this.#chunks.length = 0;
  }

  async #fetch(): Promise<void> {
    try {
      for await (const chunk of this.#source) {
        if (this.#dropped) return;
        this.#chunks.push(chunk);
        this.#signal();
      }
    } catch (error) {
      this.#error = error;
      throw error;
    } finally {
      this.#done = true;
      this.#signal();
    }
  }

  #signal(): void {
    this.#wake.resolve();
    this.#wake = Promise.withResolvers();
  }
}
