/**
 * docs/develop/conformance.md as data: one table of specs with a column for each environment, one of reasons. A cell is
 * `pass`, `-` (never run there), or `skip a` and `fail b`, where the letters name a reason.
 */
import { readFileSync, writeFileSync } from 'node:fs';

export interface Outcome {
  state: 'pass' | 'skip' | 'fail';
  /** Why it was skipped or failed; "" for passes. */
  why: string;
}

export interface Page {
  text: string;
  columns: string[];
  /** Spec name → column → outcome. */
  specs: Map<string, Map<string, Outcome>>;
  /** Reason → mark. */
  marks: Map<string, string>;
}

const SPECS = ['<!-- specs -->', '<!-- /specs -->'] as const;
const REASONS = ['<!-- reasons -->', '<!-- /reasons -->'] as const;

function section(text: string, [from, to]: readonly [string, string]): string[][] {
  const body = text.slice(text.indexOf(from) + from.length, text.indexOf(to));
  if (!text.includes(from) || !text.includes(to)) return [];
  return body
    .split('\n')
    .filter((line) => line.startsWith('|') && !/^\|[\s:|-]+\|$/.test(line))
    .map((line) =>
      line
        .slice(1, -1)
        .split(/(?<!\\)\|/)
        .map((cell) => cell.trim().replaceAll('\\|', '|')),
    );
}

export function parsePage(text: string): Page {
  const reasons = new Map<string, string>();
  const marks = new Map<string, string>();
  for (const [mark = '', reason = ''] of section(text, REASONS).slice(1)) {
    reasons.set(mark, reason);
    marks.set(reason, mark);
  }
  const [header = [], ...rows] = section(text, SPECS);
  const columns = header.slice(1);
  const specs = new Map<string, Map<string, Outcome>>();
  for (const [name = '', ...cells] of rows) {
    const outcomes = new Map<string, Outcome>();
    for (const [i, cell] of cells.entries()) {
      const [state = '-', mark = ''] = cell.split(' ');
      const at = columns[i];
      if (at && (state === 'pass' || state === 'skip' || state === 'fail')) {
        outcomes.set(at, { state, why: reasons.get(mark) ?? '' });
      }
    }
    specs.set(name, outcomes);
  }
  return { text, columns, specs, marks };
}

const RANK = { pass: 2, skip: 1, fail: 0 };

/** What differs from the page: `worse` is a regression, `other` anything else worth a look. */
export function compare(page: Page, column: string, found: Map<string, Outcome>): { worse: string[]; other: string[] } {
  const worse: string[] = [];
  const other: string[] = [];
  for (const [name, { state, why }] of found) {
    const expected = page.specs.get(name)?.get(column);
    if (!expected) {
      (state === 'fail' ? worse : other).push(`${name}: ${state}, and the page has nothing about it`);
    } else if (RANK[state] < RANK[expected.state]) {
      worse.push(`${name}: ${state}, the page says ${expected.state}: ${why.slice(0, 300)}`);
    } else if (state !== expected.state) {
      other.push(`${name}: ${state}, the page says ${expected.state}`);
    }
  }
  return { worse, other };
}

/** Replaces the column of the specs in `found`; words of the page outside its tables stay as they are. */
export function writePage(path: string, page: Page, column: string, found: Map<string, Outcome>): void {
  if (!page.columns.includes(column)) page.columns.push(column);
  page.columns.sort((a, b) => Number(b.startsWith('sluice')) - Number(a.startsWith('sluice')) || a.localeCompare(b));
  for (const [name, outcome] of found) {
    const outcomes = page.specs.get(name) ?? new Map<string, Outcome>();
    outcomes.set(column, { ...outcome, why: shorten(outcome.why) });
    page.specs.set(name, outcomes);
  }
  const used = new Map<string, string>();
  const mark = (why: string): string => {
    const known = used.get(why) ?? page.marks.get(why);
    if (known) {
      used.set(why, known);
      return known;
    }
    const taken = new Set([...page.marks.values(), ...used.values()]);
    let n = 1;
    while (taken.has(`r${n}`)) n++;
    used.set(why, `r${n}`);
    return `r${n}`;
  };
  const cell = (outcome: Outcome | undefined) => {
    if (!outcome) return '-';
    return outcome.state === 'pass' ? 'pass' : `${outcome.state} ${mark(outcome.why)}`;
  };
  const escaped = (text: string) => text.replaceAll('|', '\\|');
  const rows = [...page.specs]
    .sort(([a], [b]) => a.localeCompare(b))
    .map(([name, outcomes]) => {
      return `| ${escaped(name)} | ${page.columns.map((at) => cell(outcomes.get(at))).join(' | ')} |`;
    });
  const table = [
    `| spec | ${page.columns.join(' | ')} |`,
    `| --- |${' --- |'.repeat(page.columns.length)}`,
    ...rows,
  ].join('\n');
  const reasons = [...used].sort(([, a], [, b]) => Number(a.slice(1)) - Number(b.slice(1)));
  const why = ['| mark | why |', '| --- | --- |', ...reasons.map(([text, m]) => `| ${m} | ${escaped(text)} |`)].join(
    '\n',
  );
  let text = readFileSync(path, 'utf8');
  text = replaceSection(text, SPECS, table);
  text = replaceSection(text, REASONS, why);
  writeFileSync(path, text);
}

/** One readable line, without what changes from run to run. */
function shorten(why: string): string {
  return why
    .replace(/ Unexpected error:.*/, '')
    .replaceAll(/[0-9a-f]{64}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]+|0x[0-9a-f]{6,}/g, '…')
    .replaceAll(/127\.0\.0\.1:\d+(\/\w+\/)?[\w-]*/g, '127.0.0.1:…$1')
    .replaceAll(/\/tmp\/\S+/g, '…')
    .slice(0, 240)
    .trim();
}

function replaceSection(text: string, [from, to]: readonly [string, string], body: string): string {
  const start = text.indexOf(from);
  const end = text.indexOf(to);
  if (start < 0 || end < start) throw new Error(`docs/develop/conformance.md has no ${from} … ${to}`);
  return `${text.slice(0, start + from.length)}\n${body}\n${text.slice(end)}`;
}
