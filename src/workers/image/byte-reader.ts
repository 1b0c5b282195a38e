const NOTHING = Buffer.alloc(0);

/** Reads a stream of chunks by the number of bytes that is wanted. */
export class ByteReader {
  readonly #source: AsyncIterator<Buffer>;
  #buffer: Buffer = NOTHING;
  #ended = false;

  constructor(source: AsyncIterable<Buffer>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** The next bytes without taking them; fewer at the end. */
  async peek(size: number): Promise<Buffer> {
    while (this.#buffer.length < size && (await this.#more()));
    return this.#buffer.subarray(0, size);
  }

  /** Takes exactly so many bytes; undefined when the stream ends before. */
  async take(size: number): Promise<Buffer | undefined> {
    if ((await this.peek(size)).length < size) return undefined;
    const taken = this.#buffer.subarray(0, size);
    this.#buffer = this.#buffer.subarray(size);
    return taken;
  }

  /** Drops so many bytes; false when the stream ends before. */
  async skip(size: number): Promise<boolean> {
    while (size > 0) {
      if (this.#buffer.length === 0 && !(await this.#more())) return false;
      const step = Math.min(size, this.#buffer.length);
      this.#buffer = this.#buffer.subarray(step);
      size -= step;
    }
    return true;
  }

  /** Everything that is left, as it comes. */
  async *rest(): AsyncGenerator<Buffer> {
    do {
      const chunk = this.#buffer;
      this.#buffer = NOTHING;
      if (chunk.length > 0) yield chunk;
    } while (await this.#more());
  }

  async #more(): Promise<boolean> {
    if (this.#ended) return false;
    const { done, value } = await this.#source.next();
    if (done) {
      this.#ended = true;
      return false;
    }
    this.#buffer = this.#buffer.length === 0 ? value : Buffer.concat([this.#buffer, value]);
    return true;
  }
}
