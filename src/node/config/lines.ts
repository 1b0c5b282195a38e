/**
 * Finds the line of each key in a TOML document, because smol-toml does not report positions. The document must be
 * valid TOML: nothing is checked here.
 */

const SEPARATOR = '\0';

/**
 * The line number, from 1, of the key or table at `path`, or else (unless `exact`) of its nearest parent; undefined
 * when there is none.
 */
export type Lines = (path: readonly string[], exact?: boolean) => number | undefined;

/** Scans a valid TOML document. */
export function linesOf(toml: string): Lines {
  const lines = new Scanner(toml).scan();
  return (path, exact = false) => {
    const shortest = exact ? path.length : 1;
    for (let length = path.length; length >= shortest; length--) {
      const line = lines.get(path.slice(0, length).join(SEPARATOR));
      if (line !== undefined) return line;
    }
    return undefined;
  };
}

class Scanner {
  readonly #text: string;
  readonly #lines = new Map<string, number>();
  #at = 0;
  #line = 1;

  constructor(text: string) {
    this.#text = text;
  }

  scan(): Map<string, number> {
    let table: string[] = [];
    for (;;) {
      this.#skipBlank();
      if (this.#at >= this.#text.length) return this.#lines;
      if (this.#peek() === '[') {
        while (this.#peek() === '[') this.#next();
        table = this.#key();
        this.#note(table);
        while (this.#peek() === ']') this.#next();
      } else this.#pair(table);
    }
  }

  /** Reads `key = value` in the table at `base`. */
  #pair(base: readonly string[]): void {
    const path = [...base, ...this.#key()];
    this.#note(path);
    this.#next(); // =
    this.#value(path);
  }

  #value(path: readonly string[]): void {
    this.#skipBlank();
    const first = this.#peek();
    if (first === '"' || first === "'") this.#string();
    else if (first === '[') {
      this.#list(']', () => this.#value([...path, '']));
    } else if (first === '{') {
      this.#list('}', () => this.#pair(path));
    } else while (this.#at < this.#text.length && !/[\s,\]}#]/.test(this.#peek())) this.#next();
  }

  #list(end: string, item: () => void): void {
    this.#next();
    for (;;) {
      this.#skipBlank();
      if (this.#at >= this.#text.length) return;
      if (this.#peek() === end) {
        this.#next();
        return;
      }
      if (this.#peek() === ',') this.#next();
      else item();
    }
  }

  /** Reads a dotted key and stops at the `=` or `]` after it. */
  #key(): string[] {
    const parts: string[] = [];
    for (;;) {
      this.#skipBlank();
      const first = this.#peek();
      if (first === '"' || first === "'") parts.push(this.#string());
      else {
        const began = this.#at;
        while (this.#at < this.#text.length && !/[\s.=\]]/.test(this.#peek())) this.#next();
        parts.push(this.#text.slice(began, this.#at));
      }
      this.#skipBlank();
      if (this.#peek() !== '.') return parts;
      this.#next();
    }
  }

  /** Reads any of TOML's four kinds of string. Only keys use the result, and those are on one line. */
  #string(): string {
    const quote = this.#peek();
    const fence = this.#text.startsWith(quote.repeat(3), this.#at) ? quote.repeat(3) : quote;
    for (let i = 0; i < fence.length; i++) this.#next();
    const began = this.#at;
    while (this.#at < this.#text.length && !this.#text.startsWith(fence, this.#at)) {
      if (quote === '"' && this.#peek() === '\\') this.#next();
      this.#next();
    }
    // A multi-line string may end with up to two quotes of its own before the closing delimiter.
    while (fence.length === 3 && this.#text[this.#at + 3] === quote) this.#next();
    const raw = this.#text.slice(began, this.#at);
    for (let i = 0; i < fence.length; i++) this.#next();
    return quote === '"' ? unquote(raw) : raw;
  }

  #skipBlank(): void {
    for (;;) {
      while (this.#at < this.#text.length && /\s/.test(this.#peek())) this.#next();
      if (this.#peek() !== '#') return;
      while (this.#at < this.#text.length && this.#peek() !== '\n') this.#next();
    }
  }

  #note(path: readonly string[]): void {
    for (let length = 1; length <= path.length; length++) {
      const name = path.slice(0, length).join(SEPARATOR);
      if (!this.#lines.has(name)) this.#lines.set(name, this.#line);
    }
  }

  #peek(): string {
    return this.#text[this.#at] ?? '';
  }

  #next(): void {
    if (this.#text[this.#at] === '\n') this.#line++;
    this.#at++;
  }
}

/**
 * Decodes the escapes of a basic string that JSON has too; with others, which no known key contains, the text stays as
 * it is.
 */
function unquote(raw: string): string {
  try {
    return JSON.parse(`"${raw}"`) as string;
  } catch {
    return raw;
  }
}
