import { defaultOf, type Facts, facts, type Key, type KeyValue, SCHEMA, SECTIONS } from './schema.ts';

const WIDTH = 100;

/**
 * The configuration file with all keys at their defaults and explained (`sluice config default`). Defaults that depend
 * on the machine are written as comments, so that a file made on one machine does not set its number of cores on
 * another.
 */
export function printDefault(machine: Facts = facts()): string {
  const out: string[] = [];
  for (const [section, keys] of bySection()) {
    out.push('', ...wrap(SECTIONS[section] ?? ''));
    if (section !== '') out.push(`[${section.replace('NAME', machine.name)}]`);
    for (const [name, key] of keys) {
      const value = toToml(defaultOf(key, machine));
      out.push('', ...wrap(key.comment));
      if (key.machine) out.push(`# Default: ${key.defaultText}.`, `# ${name} = ${value}`);
      else out.push(`${name} = ${value}`);
    }
  }
  return `${out.slice(1).join('\n')}\n`;
}

/** The tables of docs/operate/config.md, a text for each section. */
export function printDocs(): Map<string, string> {
  const docs = new Map<string, string>();
  for (const [section, keys] of bySection()) {
    const rows = keys.map(
      ([name, key]) =>
        `| \`${name}\` | ${TYPES[key.type]} | ${defaultText(key)} | ${key.live ? 'yes' : ''} | ${cell(key.comment)} |`,
    );
    docs.set(
      section,
      ['| key | type | default | reload | meaning |', '| --- | --- | --- | --- | --- |', ...rows].join('\n'),
    );
  }
  return docs;
}

const TYPES: Record<Key['type'], string> = {
  string: 'string',
  integer: 'whole number',
  number: 'number',
  boolean: 'true, false',
  strings: 'list of strings',
  switch: '"auto", true, false',
};

function defaultText(key: Key): string {
  if (key.defaultText !== undefined) return cell(key.defaultText);
  return `\`${toToml(defaultOf(key, { cores: 1, name: 'runc' }))}\``;
}

/** Escapes Markdown and HTML in a table cell. */
const cell = (text: string) =>
  text
    .replaceAll('|', '\\|')
    .replaceAll(/(?<!`)<([a-z_ ]+)>/g, '&lt;$1&gt;')
    .replaceAll('*', '\\*');

function bySection(): Map<string, [name: string, key: Key][]> {
  const sections = new Map<string, [string, Key][]>(Object.keys(SECTIONS).map((section) => [section, []]));
  for (const [path, key] of Object.entries(SCHEMA)) {
    const dot = path.lastIndexOf('.');
    const section = sections.get(dot < 0 ? '' : path.slice(0, dot));
    if (!section) throw new Error(`SECTIONS has no entry for ${path}`);
    section.push([path.slice(dot + 1), key]);
  }
  return sections;
}

function toToml(value: KeyValue): string {
  // JSON's strings, numbers, booleans and lists of strings are TOML too.
  return Array.isArray(value) ? `[${value.map((item) => JSON.stringify(item)).join(', ')}]` : JSON.stringify(value);
}

function wrap(text: string): string[] {
  const lines: string[] = [];
  let line = '#';
  for (const word of text.split(' ')) {
    if (line.length + 1 + word.length > WIDTH) {
      lines.push(line);
      line = '#';
    }
    line += ` ${word}`;
  }
  lines.push(line);
  return lines;
}
