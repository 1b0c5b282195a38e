/**
 * The files that a configuration is made of: one main file and the drop-ins in conf.d beside it, merged key by key in
 * order.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { parse, TomlError } from 'smol-toml';
import type { HostFiles } from '../../workers/host-paths/read-file.ts';
import { isObject } from '../../workers/json.ts';
import { type Lines, linesOf } from './lines.ts';

export const DEFAULT_PATH = '/etc/sluice/config.toml';
const DROP_INS = 'conf.d';
/** Above any real file. */
const MAX_BYTES = 4 << 20;

export interface SourceFile {
  file: string;
  text: string;
}

/** A position in one of the files. */
export interface Origin {
  file: string;
  line: number;
}

export type Table = { [key: string]: unknown };

/** A file that cannot be read or is not TOML; `line` where there is one. */
export class SourceError extends Error {
  override readonly name = 'SourceError';
  readonly file: string;
  readonly line: number | undefined;

  constructor(file: string, message: string, options: { line?: number; cause?: unknown } = {}) {
    super(message, { cause: options.cause });
    this.file = file;
    this.line = options.line;
  }
}

/** A file to read, or a folder to list. */
type Wanted = { file: string } | { folder: string };
/** The text, or the names; undefined where there is none. */
type Found = { text?: string; names?: string[] };

/** What is read, one after the other; the reader answers each. Absent files are undefined. */
function* wantedSources(path: string | undefined): Generator<Wanted, SourceFile[], Found> {
  const main = path ?? DEFAULT_PATH;
  const sources: SourceFile[] = [];
  const take = function* (file: string, required: boolean): Generator<Wanted, void, Found> {
    const { text } = yield { file };
    if (text !== undefined) sources.push({ file, text });
    else if (required) throw unreadable(file, new Error('ENOENT: no such file or directory'));
  };
  yield* take(main, path !== undefined);
  const folder = join(dirname(main), DROP_INS);
  const { names = [] } = yield { folder };
  for (const name of names.filter((each) => each.endsWith('.toml')).sort()) yield* take(join(folder, name), true);
  return sources;
}

/**
 * Reads the main file and the `*.toml` of the folder conf.d beside it, in the order of their names. Without a path the
 * main file is {@link DEFAULT_PATH}, and may be absent; so may conf.d in any case. Throws {@link SourceError}.
 */
export function readSources(path: string | undefined): SourceFile[] {
  const reading = wantedSources(path);
  for (let next = reading.next({}); ; ) {
    if (next.done) return next.value;
    const wanted = next.value;
    let found: Found = {};
    try {
      found = 'file' in wanted ? { text: readFileSync(wanted.file, 'utf8') } : { names: readdirSync(wanted.folder) };
    } catch (cause) {
      if (!isAbsent(cause)) throw unreadable('file' in wanted ? wanted.file : wanted.folder, cause);
    }
    next = reading.next(found);
  }
}

/** {@link readSources} for a running daemon, whose main thread must not wait for a mount that hangs. */
export async function readSourcesWith(path: string | undefined, host: HostFiles): Promise<SourceFile[]> {
  const reading = wantedSources(path);
  for (let next = reading.next({}); ; ) {
    if (next.done) return next.value;
    const wanted = next.value;
    let found: Found;
    try {
      found = 'file' in wanted ? await textOf(wanted.file, host) : { names: await host.names(wanted.folder) };
    } catch (cause) {
      throw unreadable('file' in wanted ? wanted.file : wanted.folder, cause);
    }
    next = reading.next(found);
  }
}

/** Errors of a worker have no `code` of the file system, so the folder tells whether the file is absent. */
async function textOf(file: string, host: HostFiles): Promise<Found> {
  const names = await host.names(dirname(file));
  if (!names?.includes(basename(file))) return {};
  const text = await host.read(file, MAX_BYTES + 1);
  if (Buffer.byteLength(text) > MAX_BYTES) throw new Error(`it is longer than ${MAX_BYTES} bytes`);
  return { text };
}

export interface Layers {
  /** All files as one document: a key of a later file replaces that of an earlier one, a list as a whole. */
  merged: Table;
  /** Where a key is set, by its path, in the last file that sets it; with `near`, else where its nearest parent is. */
  origin(path: readonly string[], near?: boolean): Origin | undefined;
}

/** Throws {@link SourceError} for the first file that is not TOML. */
export function mergeSources(sources: readonly SourceFile[]): Layers {
  let merged: Table = {};
  const files: { file: string; lines: Lines }[] = [];
  for (const { file, text } of sources) {
    merged = merge(merged, parseToml(file, text));
    files.unshift({ file, lines: linesOf(text) });
  }
  const exactly = (path: readonly string[]) => {
    for (const { file, lines } of files) {
      const line = lines(path, true);
      if (line !== undefined) return { file, line };
    }
    return undefined;
  };
  return {
    merged,
    origin(path, near = false) {
      for (let length = path.length; length > 0; length--) {
        const found = exactly(path.slice(0, length));
        if (found || !near) return found;
      }
      return undefined;
    },
  };
}

function parseToml(file: string, text: string): Table {
  try {
    return parse(text, { unsafeKeyBehaviour: 'throw' });
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const message = error.message.split('\n', 1)[0]?.replace('Invalid TOML document: ', '') ?? '';
    throw new SourceError(file, `is not TOML: ${message}`, { line: error.line });
  }
}

function merge(under: Table, over: Table): Table {
  const both = { ...under };
  for (const [key, value] of Object.entries(over)) {
    const below = both[key];
    both[key] = isTable(below) && isTable(value) ? merge(below, value) : value;
  }
  return both;
}

export function isTable(value: unknown): value is Table {
  return isObject(value) && !(value instanceof Date);
}

const isAbsent = (error: unknown) => (error as NodeJS.ErrnoException).code === 'ENOENT';
const unreadable = (file: string, cause: unknown) =>
  new SourceError(file, `cannot be read: ${(cause as Error).message}`, { cause });
