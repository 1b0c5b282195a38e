/**
 * Wraps comments at 120 columns, which Biome leaves alone: `npm run format` runs it.
 *
 *   wrap-comments.ts [--check] [FILE...]   all TypeScript files of the repository when none is named
 *
 * Only paragraphs with a line that is too long are touched. Lists, indented examples and drawings keep their lines.
 * With --check it writes nothing, prints the places, and ends with status 1 when there is one. Comments behind code are
 * not its business.
 */
import { globSync, readFileSync, writeFileSync } from 'node:fs';
import { resolve } from 'node:path';

const WIDTH = 120;
const ROOT = resolve(import.meta.dirname, '..');
const FILES = ['src', 'test', 'scripts', 'grafana'].map((folder) => `${folder}/**/*.ts`);

/**
 * Words as lines of at most {@link WIDTH} columns, each behind `lead`. Code in backticks and links count as one word.
 */
function fill(text: string, lead: string): string[] {
  const lines: string[] = [];
  let line = lead;
  for (const word of text.match(/(?:`[^`]*`|\{@[^}]*\}|\S)+/g) ?? []) {
    if (line !== lead && line.length + 1 + word.length > WIDTH) {
      lines.push(line);
      line = lead;
    }
    line += line === lead ? word : ` ${word}`;
  }
  return [...lines, line];
}

/** Text whose line breaks mean something: a list, an indented example, a drawing or table, a tag. */
const keepsLines = (text: string) => /^(\s{2,}|[-*|@] ?|\d+\. )|[│─├└┬▼▲]/u.test(text);

/** Wraps the paragraphs among comment lines that all begin with `lead`, as ` * ` or `// ` behind their indent. */
function wrapParagraphs(lines: readonly string[], lead: string): string[] {
  const out: string[] = [];
  let paragraph: string[] = [];
  const flush = () => {
    const tooLong = paragraph.some((line) => line.length > WIDTH);
    const text = paragraph.map((line) => line.slice(lead.length)).join(' ');
    out.push(...(tooLong ? fill(text, lead) : paragraph));
    paragraph = [];
  };
  let list = false;
  for (const line of lines) {
    const text = line.slice(lead.length);
    if (text.trim() === '' || keepsLines(text)) {
      flush();
      // What follows an item of a list without a blank line belongs to it.
      list = text.trim() !== '';
      out.push(line);
    } else if (list) out.push(line);
    else paragraph.push(line);
  }
  flush();
  return out;
}

/** The source with its comments wrapped. */
export function wrapComments(source: string): string {
  const lines = source.split('\n');
  const out: string[] = [];
  for (let at = 0; at < lines.length; at++) {
    const line = lines[at] ?? '';
    const single = /^(\s*)\/\*\* (.*) \*\/$/.exec(line);
    const opens = /^(\s*)\/\*\*?$/.exec(line);
    const slashes = /^(\s*)\/\/ /.exec(line);
    if (single && line.length > WIDTH) {
      const [, indent = '', text = ''] = single;
      out.push(`${indent}/**`, ...fill(text, `${indent} * `), `${indent} */`);
    } else if (opens) {
      const lead = `${opens[1]} * `;
      const end = lines.indexOf(`${opens[1]} */`, at);
      const body = lines.slice(at + 1, end);
      const whole = end > at && body.every((one) => one.startsWith(lead.trimEnd()));
      out.push(line, ...(whole ? wrapParagraphs(body, lead) : []));
      if (whole) at = end - 1;
    } else if (slashes) {
      const lead = slashes[0];
      const block = [line];
      for (; lines[at + 1]?.startsWith(lead); at++) block.push(lines[at + 1] ?? '');
      out.push(...wrapParagraphs(block, lead));
    } else out.push(line);
  }
  return out.join('\n');
}

if (import.meta.main) {
  const named = process.argv.slice(2).filter((word) => word !== '--check');
  const check = process.argv.includes('--check');
  const files =
    named.length > 0 ? named.map((file) => resolve(file)) : FILES.flatMap((glob) => globSync(glob, { cwd: ROOT }));
  for (const file of files) {
    const path = resolve(ROOT, file);
    const source = readFileSync(path, 'utf8');
    const wrapped = wrapComments(source);
    if (wrapped === source) continue;
    if (!check) writeFileSync(path, wrapped);
    else process.exitCode = 1;
    console.log(`${check ? 'comments wider than 120 columns' : 'wrapped'}: ${path.slice(ROOT.length + 1)}`);
  }
}
