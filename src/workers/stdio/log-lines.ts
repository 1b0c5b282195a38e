/**
 * The log format of CRI: `<RFC 3339 time, nanoseconds> <stdout|stderr> <P|F> <content>\n`. F marks the end of a line, P
 * a part of a line that continues. Source: the "CRI logging" design of Kubernetes and the parser of kubelet
 * (pkg/kubelet/kuberuntime/logs).
 */
import { STAMP_SIZE, type Stamp } from './stamp.ts';

export type StreamName = 'stdout' | 'stderr';

/** A buffer that lines are written to, see {@link LogFile}. */
export interface LineSink {
  /** Returns a buffer with at least `size` free bytes from `at` on. Valid until the next call. */
  reserve(size: number): { buffer: Buffer; at: number };
  /** `size` bytes were written into the reserved part. */
  commit(size: number): void;
}

export interface LineCounts {
  /** Entries written: lines and parts of lines. */
  entries: number;
  /** Those of them with tag P. */
  split: number;
}

const LF = 10;
const CR = 13;
const F = 70;
const P = 80;
/** The limit for one line in memory where `max_container_line` is unlimited. */
const HARD_MAX = 16 << 20;

/** Splits one stream of a container into log lines. Both streams of a container share a {@link Stamp} and a sink. */
export class LogLines {
  readonly #stamp: Stamp;
  readonly #sink: LineSink;
  readonly #counts: LineCounts;
  readonly #max: number;
  /** Stamp, stream name and tag; the stamp is copied in for each entry. */
  readonly #prefix: Buffer;
  readonly #tagAt: number;
  /** The beginning of an unfinished line; at most `max` bytes. */
  #carry: Buffer = Buffer.alloc(0);
  #carried = 0;

  /** `max` is the limit for the content of an entry in bytes; 0 or less sets the limit of 16 MiB. */
  constructor(stream: StreamName, max: number, stamp: Stamp, sink: LineSink, counts: LineCounts) {
    this.#stamp = stamp;
    this.#sink = sink;
    this.#counts = counts;
    this.#max = max > 0 ? Math.min(max, HARD_MAX) : HARD_MAX;
    this.#prefix = Buffer.from(`${' '.repeat(STAMP_SIZE)} ${stream} F `, 'latin1');
    this.#tagAt = STAMP_SIZE + stream.length + 2;
  }

  /** The unfinished line; valid until the next call. */
  get unfinished(): Buffer {
    return this.#carry.subarray(0, this.#carried);
  }

  /** Begins with an unfinished line, which another one had. */
  resume(unfinished: Buffer): void {
    this.#keep(unfinished, 0);
  }

  push(chunk: Buffer): void {
    this.#stamp.refresh();
    let start = 0;
    for (let end = chunk.indexOf(LF); end !== -1; end = chunk.indexOf(LF, start)) {
      this.#line(chunk, start, end);
      start = end + 1;
    }
    if (start < chunk.length) this.#keep(chunk, this.#pieces(chunk, start, chunk.length));
  }

  /**
   * Writes the unfinished line as a partial entry. A carriage return at its end is held back, since it may belong to a
   * CRLF; with `all`, for the end of the stream, it is written too.
   */
  flush(all: boolean): void {
    const size = !all && this.#carry[this.#carried - 1] === CR ? this.#carried - 1 : this.#carried;
    if (size <= 0) return;
    this.#stamp.refresh();
    const rest = this.#carried - size;
    this.#carried = size;
    this.#write(P, this.#carry, 0, 0);
    if (rest > 0) this.#keep(Buffer.of(CR), 0);
  }

  /** Writes a whole line: the carried bytes and chunk[start, end). */
  #line(chunk: Buffer, start: number, end: number): void {
    if (end > start) {
      if (chunk[end - 1] === CR) end--;
    } else if (this.#carry[this.#carried - 1] === CR && this.#carried > 0) this.#carried--;
    this.#write(F, chunk, this.#pieces(chunk, start, end), end);
  }

  /** Writes partial entries of `max` bytes while there is more than that; returns where the rest begins. */
  #pieces(chunk: Buffer, start: number, end: number): number {
    while (this.#carried + end - start > this.#max) {
      const take = this.#max - this.#carried;
      this.#write(P, chunk, start, start + take);
      start += take;
    }
    return start;
  }

  #keep(chunk: Buffer, start: number): void {
    const size = this.#carried + chunk.length - start;
    if (size > this.#carry.length) {
      const grown = Buffer.allocUnsafe(Math.min(this.#max, Math.max(256, size * 2)));
      this.#carry.copy(grown, 0, 0, this.#carried);
      this.#carry = grown;
    }
    chunk.copy(this.#carry, this.#carried, start);
    this.#carried = size;
  }

  /** Writes one entry: the carried bytes and chunk[start, end). */
  #write(tag: number, chunk: Buffer, start: number, end: number): void {
    this.#stamp.step();
    const prefix = this.#prefix;
    prefix.set(this.#stamp.bytes, 0);
    prefix[this.#tagAt] = tag;
    const size = prefix.length + this.#carried + end - start + 1;
    const { buffer, at } = this.#sink.reserve(size);
    buffer.set(prefix, at);
    let to = at + prefix.length;
    if (this.#carried > 0) {
      this.#carry.copy(buffer, to, 0, this.#carried);
      to += this.#carried;
      this.#carried = 0;
    }
    if (end > start) chunk.copy(buffer, to, start, end);
    buffer[at + size - 1] = LF;
    this.#sink.commit(size);
    this.#counts.entries++;
    if (tag === P) this.#counts.split++;
    if (this.#carried === 0 && this.#carry.length > 4096) this.#carry = Buffer.alloc(0);
  }
}
