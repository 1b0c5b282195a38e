/**
 * One HTTP/1 answer, read as Go's client reads it (net/http's transfer.go, net/textproto's reader.go): what all other
 * runtimes take from a registry. RFC 9112 allows a client less than that.
 */

export interface AnswerHead {
  status: number;
  /** Names in lower case; headers that stand several times are joined by commas. */
  headers: Record<string, string>;
}

/** The answer is not HTTP. */
export class NotHttp extends Error {}

/** The connection has ended before the answer did. */
export class CutShort extends Error {
  readonly code = 'ECONNRESET';
}

/** Bytes of all headers, as Go limits them. */
const MAX_HEAD = 10 << 20;
/** Bytes of a chunk's size with its extensions. */
const MAX_CHUNK_LINE = 4096;
const MAX_INFORMATIONAL = 10;
const LF = 0x0a;

export class AnswerReader {
  readonly #source: AsyncIterator<Buffer>;
  #held: Buffer = Buffer.alloc(0);

  constructor(source: AsyncIterable<Buffer>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** The head of the final answer; informational ones are passed over. Throws {@link NotHttp}, {@link CutShort}. */
  async head(): Promise<AnswerHead> {
    for (let passed = 0; passed < MAX_INFORMATIONAL; passed++) {
      const head = await this.#oneHead();
      if (head.status >= 200 || head.status === 101) return head;
    }
    throw new NotHttp(`more than ${MAX_INFORMATIONAL} informational answers`);
  }

  /** What follows the head. Chunks count where a length stands beside them (RFC 9112 6.3). */
  async *body(method: string, { status, headers }: AnswerHead): AsyncGenerator<Buffer> {
    if (method === 'HEAD' || status === 204 || status === 304) return;
    const coding = headers['transfer-encoding'];
    if (coding !== undefined) {
      if (coding.toLowerCase() !== 'chunked') throw new NotHttp(`the transfer encoding ${JSON.stringify(coding)}`);
      yield* this.#chunks();
    } else if (headers['content-length'] !== undefined) yield* this.#bytes(Number(headers['content-length']));
    else yield* this.#rest();
  }

  async #oneHead(): Promise<AnswerHead> {
    const room = { left: MAX_HEAD };
    const first = await this.#line(room);
    const status = /^HTTP\/\d\.\d +(\d{3})(?: |$)/.exec(first)?.[1];
    if (status === undefined) throw new NotHttp(`the answer begins with ${JSON.stringify(first.slice(0, 60))}`);
    const lines: string[] = [];
    for (let line = await this.#line(room); line !== ''; line = await this.#line(room)) {
      // A line that begins with a space goes on with the one before (RFC 9112 5.2).
      const before = /^[ \t]/.test(line) ? lines.pop() : undefined;
      lines.push(before === undefined ? line : `${before} ${line.trim()}`);
    }
    return { status: Number(status), headers: headersOf(lines) };
  }

  async *#chunks(): AsyncGenerator<Buffer> {
    for (;;) {
      const line = await this.#line({ left: MAX_CHUNK_LINE });
      const digits = line.split(';', 1)[0]?.trim() ?? '';
      const size = Number.parseInt(digits, 16);
      if (!/^[0-9a-f]{1,16}$/i.test(digits) || !Number.isSafeInteger(size))
        throw new NotHttp(`a chunk has the size ${JSON.stringify(digits.slice(0, 40))}`);
      if (size === 0) break;
      yield* this.#bytes(size);
      if ((await this.#line({ left: MAX_CHUNK_LINE })) !== '') throw new NotHttp('a chunk is longer than its size');
    }
    const room = { left: MAX_HEAD };
    while ((await this.#line(room)) !== ''); // the trailer
  }

  async *#bytes(count: number): AsyncGenerator<Buffer> {
    for (let left = count; left > 0; ) {
      if (this.#held.length === 0 && !(await this.#more())) throw new CutShort(`the answer ends ${left} bytes early`);
      const piece = this.#held.subarray(0, left);
      this.#held = this.#held.subarray(piece.length);
      left -= piece.length;
      yield piece;
    }
  }

  async *#rest(): AsyncGenerator<Buffer> {
    do {
      if (this.#held.length > 0) yield this.#held;
      this.#held = Buffer.alloc(0);
    } while (await this.#more());
  }

  /** A line without its end, which may be a line feed alone; one byte per character. */
  async #line(room: { left: number }): Promise<string> {
    let searched = 0;
    for (;;) {
      const end = this.#held.indexOf(LF, searched);
      if ((end < 0 ? this.#held.length : end + 1) > room.left) throw new NotHttp('a line or the head is too long');
      if (end >= 0) {
        const line = this.#held.toString('latin1', 0, end);
        this.#held = this.#held.subarray(end + 1);
        room.left -= end + 1;
        return line.endsWith('\r') ? line.slice(0, -1) : line;
      }
      searched = this.#held.length;
      if (!(await this.#more())) throw new CutShort('the answer ends in its head');
    }
  }

  async #more(): Promise<boolean> {
    const { done, value } = await this.#source.next();
    if (done) return false;
    this.#held = this.#held.length === 0 ? value : Buffer.concat([this.#held, value]);
    return true;
  }
}

function headersOf(lines: readonly string[]): Record<string, string> {
  const headers = new Map<string, string>();
  for (const line of lines) {
    const colon = line.indexOf(':');
    // Go takes names with a space in them (go.dev/issue/34540).
    const name = line.slice(0, colon).trim().toLowerCase();
    if (colon < 0 || !/^[!#$%&'*+.^`|~\w -]+$/.test(name))
      throw new NotHttp(`the header ${JSON.stringify(line.slice(0, 60))}`);
    const value = line.slice(colon + 1).trim();
    const before = headers.get(name);
    if (name === 'content-length') {
      if (!/^\d{1,16}$/.test(value) || (before !== undefined && before !== value))
        throw new NotHttp(`the length ${JSON.stringify(before === undefined ? value : `${before}, ${value}`)}`);
      headers.set(name, value);
    } else headers.set(name, before === undefined ? value : `${before}, ${value}`);
  }
  return Object.fromEntries(headers);
}
