/**
 * The part of YAML that CDI files are written in (nvidia-ctk and the DRA drivers write them through Go's yaml): block and flow
 * collections, plain and quoted scalars, literal and folded text, comments. Anchors, tags, several documents and scalars that go on
 * over lines are refused with the line's number, never misread.
 */
export type Yaml = string | number | boolean | null | Yaml[] | { [key: string]: Yaml };

interface Line {
  /** From 1. */
  number: number;
  indent: number;
  text: string;
}

/** Throws SyntaxError with the line's number. */
export function parseYaml(text: string): Yaml {
  const reader = new Reader(text);
  const value = reader.at(0) === undefined ? null : reader.node(reader.indent());
  const rest = reader.at(0);
  if (rest !== undefined) throw reader.error(rest, 'unexpected indentation');
  return value;
}

class Reader {
  readonly #lines: Line[] = [];
  readonly #raw: string[];
  #next = 0;

  constructor(text: string) {
    this.#raw = text.split(/\r?\n/);
    let started = false;
    for (const [index, raw] of this.#raw.entries()) {
      const line = { number: index + 1, indent: raw.length - raw.trimStart().length, text: raw.trim() };
      if (line.text === '' || line.text.startsWith('#')) continue;
      if (line.text === '---' && !started) {
        started = true;
        continue;
      }
      if (/^(---|\.\.\.|%)/.test(raw)) throw this.error(line, 'only one document, without directives, is supported');
      if (raw.slice(0, line.indent).includes('\t')) throw this.error(line, 'tabs cannot indent');
      started = true;
      this.#lines.push(line);
    }
  }

  at(offset: number): Line | undefined {
    return this.#lines[this.#next + offset];
  }

  indent(): number {
    return this.at(0)?.indent ?? 0;
  }

  error(line: Line, what: string): SyntaxError {
    return new SyntaxError(`line ${line.number}: ${what}`);
  }

  /** The node whose first line is next and stands at `indent`. */
  node(indent: number): Yaml {
    const line = this.at(0);
    if (line === undefined || line.indent !== indent) return null;
    if (isItem(line.text)) return this.#sequence(indent);
    if (splitKey(line.text) !== undefined) return this.#mapping(indent);
    this.#next++;
    return this.#inline(line, line.text);
  }

  #sequence(indent: number): Yaml[] {
    const items: Yaml[] = [];
    for (let line = this.at(0); line?.indent === indent && isItem(line.text); line = this.at(0)) {
      const after = line.text.slice(1);
      const content = stripComment(after.trim());
      if (content === '') {
        this.#next++;
        items.push(this.indent() > indent ? this.node(this.indent()) : null);
      } else if (isItem(content) || splitKey(content) !== undefined) {
        // "- key: value": the collection begins on the dash's line, at the column of its first character.
        line.indent = indent + 1 + (after.length - after.trimStart().length);
        line.text = content;
        items.push(this.node(line.indent));
      } else {
        this.#next++;
        items.push(this.#value(line, content, indent));
      }
    }
    return items;
  }

  #mapping(indent: number): { [key: string]: Yaml } {
    const entries = new Map<string, Yaml>();
    for (let line = this.at(0); line?.indent === indent; line = this.at(0)) {
      const split = splitKey(line.text);
      if (split === undefined || isItem(line.text)) throw this.error(line, 'expected "key: value"');
      const key = String(this.#inline(line, split.key));
      if (entries.has(key)) throw this.error(line, `"${key}" is there twice`);
      const content = stripComment(split.rest);
      this.#next++;
      if (content !== '') entries.set(key, this.#value(line, content, indent));
      else {
        const below = this.at(0);
        // A list may stand at its key's own indentation.
        const belongs =
          below !== undefined && (below.indent > indent || (below.indent === indent && isItem(below.text)));
        entries.set(key, belongs ? this.node(below.indent) : null);
      }
    }
    return Object.fromEntries(entries);
  }

  /** A scalar or flow collection after a key or dash, or the text block that it announces. */
  #value(line: Line, content: string, indent: number): Yaml {
    const block = /^([|>])([+-]?)$/.exec(content);
    if (block !== null) return this.#block(line, block[1] === '>', block[2] ?? '', indent);
    const value = this.#inline(line, content);
    const below = this.at(0);
    if (below !== undefined && below.indent > indent) throw this.error(below, 'a value that goes on over lines');
    return value;
  }

  #block(line: Line, folded: boolean, chomp: string, indent: number): string {
    const lines: string[] = [];
    let inner = 0;
    let last = line.number;
    for (const raw of this.#raw.slice(line.number)) {
      const own = raw.length - raw.trimStart().length;
      if (raw.trim() !== '' && own <= indent) break;
      if (raw.trim() !== '' && inner === 0) inner = own;
      lines.push(raw.slice(inner));
      last++;
    }
    while (this.at(0) !== undefined && (this.at(0)?.number ?? 0) <= last) this.#next++;
    while (chomp !== '+' && lines.at(-1)?.trim() === '') lines.pop();
    const text = folded ? lines.join(' ') : lines.join('\n');
    return chomp === '-' || lines.length === 0 ? text : `${text}\n`;
  }

  #inline(line: Line, text: string): Yaml {
    const flow = new Flow(text, (what) => this.error(line, what));
    return flow.whole();
  }
}

/** What stands on one line: scalars and flow collections. */
class Flow {
  readonly #text: string;
  readonly #error: (what: string) => SyntaxError;
  #at = 0;

  constructor(text: string, error: (what: string) => SyntaxError) {
    this.#text = text;
    this.#error = error;
  }

  whole(): Yaml {
    const value = this.#value('');
    this.#space();
    const rest = this.#text.slice(this.#at);
    if (rest !== '' && !rest.startsWith('#')) throw this.#error(`unexpected "${rest}"`);
    return value;
  }

  #value(stops: string): Yaml {
    this.#space();
    const first = this.#text[this.#at];
    if (first === '[') return this.#list();
    if (first === '{') return this.#map();
    if (first === '"' || first === "'") return this.#quoted(first);
    if (first !== undefined && '&*!|>@`%'.includes(first)) throw this.#error(`"${first}" is not supported here`);
    let end = this.#at;
    while (
      end < this.#text.length &&
      !stops.includes(this.#text[end] ?? '') &&
      !/^(\s#|:\s)/.test(this.#text.slice(end, end + 2))
    )
      end++;
    const plain = this.#text.slice(this.#at, end).trim();
    this.#at = end;
    return scalar(plain);
  }

  #list(): Yaml[] {
    const items: Yaml[] = [];
    this.#at++;
    while (!this.#ends(']')) {
      items.push(this.#value(',]'));
      this.#comma(']');
    }
    return items;
  }

  #map(): { [key: string]: Yaml } {
    const entries: [string, Yaml][] = [];
    this.#at++;
    while (!this.#ends('}')) {
      const key = String(this.#value(':,}'));
      this.#space();
      if (this.#text[this.#at] !== ':') throw this.#error(`no ":" after "${key}"`);
      this.#at++;
      entries.push([key, this.#value(',}')]);
      this.#comma('}');
    }
    return Object.fromEntries(entries);
  }

  #ends(close: string): boolean {
    this.#space();
    if (this.#at >= this.#text.length) throw this.#error(`no "${close}" on this line`);
    if (this.#text[this.#at] !== close) return false;
    this.#at++;
    return true;
  }

  #comma(close: string): void {
    this.#space();
    if (this.#text[this.#at] === ',') this.#at++;
    else if (this.#text[this.#at] !== close) throw this.#error(`no "${close}" on this line`);
  }

  #quoted(quote: string): string {
    const pattern = quote === '"' ? /"((?:[^"\\]|\\.)*)"/y : /'((?:[^']|'')*)'/y;
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text);
    if (found === null) throw this.#error('a quote is not closed on this line');
    this.#at = pattern.lastIndex;
    if (quote === "'") return (found[1] ?? '').replaceAll("''", "'");
    return (found[1] ?? '').replace(/\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)/g, (_all, code: string) => {
      if (code.length > 1) return String.fromCharCode(Number.parseInt(code.slice(1), 16));
      const plain = ESCAPES[code];
      if (plain === undefined) throw this.#error(`escape "\\${code}" is not supported`);
      return plain;
    });
  }

  #space(): void {
    while (this.#text[this.#at] === ' ') this.#at++;
  }
}

const ESCAPES: Readonly<Record<string, string>> = {
  '"': '"',
  '\\': '\\',
  '/': '/',
  ' ': ' ',
  '0': '\0',
  n: '\n',
  r: '\r',
  t: '\t',
};

/** YAML 1.1 as Go reads it: 0666 is octal, as fileMode is written. */
function scalar(plain: string): Yaml {
  if (plain === '' || plain === '~' || plain === 'null') return null;
  if (plain === 'true') return true;
  if (plain === 'false') return false;
  if (/^0o?[0-7]+$/.test(plain)) return Number.parseInt(plain.replace('o', ''), 8);
  if (/^[-+]?\d+$/.test(plain) || /^0x[0-9a-fA-F]+$/.test(plain) || /^[-+]?\d+\.\d+$/.test(plain)) return Number(plain);
  return plain;
}

function isItem(text: string): boolean {
  return text === '-' || text.startsWith('- ');
}

/** "key: rest", the key perhaps quoted; undefined where the line is none. */
function splitKey(text: string): { key: string; rest: string } | undefined {
  if (/^[[{]/.test(text)) return undefined;
  const found = /^("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^"'#][^#]*?)\s*:(?:\s+(.*))?$/.exec(text);
  return found === null ? undefined : { key: found[1] ?? '', rest: found[2] ?? '' };
}

function stripComment(text: string): string {
  return text.startsWith('#') ? '' : text;
}
