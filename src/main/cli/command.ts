/**
 * What one command of `sluice` is: an entry of the table in commands.ts. Help, completion and manual pages are made
 * from it.
 */

/** What the shells complete an argument with. */
export type Completion = 'pod' | 'container' | 'file' | readonly string[];

export interface Argument {
  name: string;
  description: string;
  optional?: boolean;
  /** Takes all that is left on the line, options of others included. */
  rest?: boolean;
  /** Takes one or more words; options may follow. */
  many?: boolean;
  complete?: Completion;
}

export interface Option {
  /** As commander has them: `-f, --follow`, `--tail <lines>`. */
  flags: string;
  description: string;
  complete?: Completion;
}

/** Where a command finds the daemon: options are added that name the place. */
export type Peer = 'metrics' | 'cri';

export interface Command {
  /** `top`, or with its group `config show`. */
  name: string;
  /** A line of the list of commands. */
  summary: string;
  /** More for its own help and the manual page: whole sentences. */
  description?: string;
  arguments?: readonly Argument[];
  options?: readonly Option[];
  peers?: readonly Peer[];
  /** It has an output for programs, so `--json` is an option of it. */
  json?: boolean;
  /** Does it; the result is the exit status. What it throws ends the program with the status of {@link EXIT}. */
  run(call: Call): Promise<number> | number;
}

/** A line of the command line tool, taken apart. */
export interface Call {
  /** By position; the arguments of `rest` follow one by one. */
  arguments: readonly (string | undefined)[];
  /** By long name in camelCase. */
  options: Readonly<Record<string, string | boolean | undefined>>;
  out: Output;
}

/** Standard output, or a test's memory. */
export type Output = NodeJS.WritableStream & { columns?: number; rows?: number; isTTY?: boolean };

/** The exit statuses, for scripts. */
export const EXIT = {
  ok: { status: 0, meaning: 'it was done' },
  failed: { status: 1, meaning: 'it failed, or what was checked is not right; standard error says what' },
  usage: { status: 2, meaning: 'the command line is wrong' },
  unreachable: { status: 3, meaning: 'no daemon answers' },
  missing: { status: 4, meaning: 'there is no such pod, container, image or launch' },
} as const;

/** Options of commands that ask the daemon, by what they ask. */
export const PEER_OPTIONS: Record<Peer | 'config', Option> = {
  metrics: {
    flags: '--metrics <host:port>',
    description: 'address of the daemon’s metrics endpoint (default: metrics.listen of the configuration)',
  },
  cri: {
    flags: '--socket <path>',
    description: 'the daemon’s CRI socket (default: socket of the configuration)',
    complete: 'file',
  },
  config: {
    flags: '--config <file>',
    description: 'configuration to take that from (default: /etc/sluice/config.toml)',
    complete: 'file',
  },
};

export const JSON_OPTION: Option = { flags: '--json', description: 'print JSON' };

/** All options of a command, its own first. */
export function optionsOf({ options = [], peers = [], json }: Command): Option[] {
  const shared = peers.map((peer) => PEER_OPTIONS[peer]);
  return [...options, ...(json ? [JSON_OPTION] : []), ...shared, ...(peers.length > 0 ? [PEER_OPTIONS.config] : [])];
}

/** The value of an option that takes one. */
export function optionText({ options }: Call, name: string): string | undefined {
  const value = options[name];
  return typeof value === 'string' ? value : undefined;
}

/** Colours are for terminals that have them and whose user has not said no (https://no-color.org). */
export function useColor(out: Output, env: NodeJS.ProcessEnv = process.env): boolean {
  return out.isTTY === true && !env.NO_COLOR && env.TERM !== 'dumb';
}

export function printJson(out: Output, value: unknown): void {
  out.write(`${JSON.stringify(value, (_key, one) => (typeof one === 'bigint' ? Number(one) : one), 2)}\n`);
}

/** Columns as wide as their cells, two blanks between them. Numbers stand at the right. */
export function printTable(
  out: Output,
  head: readonly string[],
  rows: readonly (readonly (string | number)[])[],
): void {
  const cells = rows.map((row) => row.map(String));
  const right = head.map((_, at) => rows.length > 0 && rows.every((row) => typeof row[at] === 'number'));
  const widths = head.map((title, at) => Math.max(title.length, ...cells.map((row) => row[at]?.length ?? 0)));
  for (const row of [head, ...cells]) {
    const line = row.map((cell, at) => (right[at] ? cell.padStart(widths[at] ?? 0) : cell.padEnd(widths[at] ?? 0)));
    out.write(`${line.join('  ').trimEnd()}\n`);
  }
}
