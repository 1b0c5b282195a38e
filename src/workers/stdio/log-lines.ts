/**
 * The log format of CRI: `<RFC 3339 time, nanoseconds> <stdout|stderr> <P|F> <content>\n`. F ends a line, P is a piece of one that
 * goes on. Source: the "CRI logging" design of Kubernetes and what kubelet's parser accepts (pkg/kubelet/kuberuntime/logs).
 */
import { STAMP_SIZE, type Stamp } from './clock.ts';

export type StreamName = 'stdout' | 'stderr';

/** Where lines are put: a buffer that grows, see {@link LogFile}. */
export interface LineSink {
  /** A buffer with at least `size` free bytes from `at` on. Valid until the next call. */
  reserve(size: number): { buffer: Buffer; at: number };
  /** So many bytes were filled in. */
  commit(size: number): void;
}

export interface LineCounts {
  /** Lines and pieces of lines written. */
  entries: number;
  /** Of these, pieces (P). */
  split: number;
}

const LF = 10;
const CR = 13;
const F = 70;
const P = 80;
/** `max_container_line` may be unlimited, the memory for one line not. */
const HARD_MAX = 16 << 20;

/** Cuts one stream of a container into log lines. The two streams of a container share a {@link Stamp} and a sink. */
export class LogLines {
  readonly #stamp: Stamp;
  readonly #sink: LineSink;
  readonly #counts: LineCounts;
  readonly #max: number;
  /** Stamp, stream name and tag; the stamp's bytes are copied in for each line. */
  readonly #prefix: Buffer;
  readonly #tagAt: number;
  /** The begin of a line whose end has not come yet; at most `max` bytes. */
  #carry: Buffer = Buffer.alloc(0);
  #carried = 0;

  /** `max` is in bytes of content; 0 or less means no limit (but for a guard at 16 MiB). */
  constructor(stream: StreamName, max: number, stamp: Stamp, sink: LineSink, counts: LineCounts) {
    this.#stamp = stamp;
    this.#sink = sink;
    this.#counts = counts;
    this.#max = max > 0 ? Math.min(max, HARD_MAX) : HARD_MAX;
    this.#prefix = Buffer.from(`${' '.repeat(STAMP_SIZE)} ${stream} F `, 'latin1');
    this.#tagAt = STAMP_SIZE + stream.length + 2;
  }

  /** Bytes of a line without its end. */
  get unfinished(): number {
    return this.#carried;
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
   * Writes what has come of an unfinished line as a piece. A carriage return at its end stays back: it may be half of a line end.
   * `all` takes that as well, for the end of the stream.
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

  /** A whole line: what was carried and chunk[start, end). */
  #line(chunk: Buffer, start: number, end: number): void {
    if (end > start) {
      if (chunk[end - 1] === CR) end--;
    } else if (this.#carry[this.#carried - 1] === CR && this.#carried > 0) this.#carried--;
    this.#write(F, chunk, this.#pieces(chunk, start, end), end);
  }

  /** Writes pieces of `max` bytes while more than that is there; returns where the rest begins. */
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

  /** One entry: the carried bytes and chunk[start, end). */
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
