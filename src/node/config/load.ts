import { basename } from 'node:path';
import { SluiceError } from '../../errors.ts';
import type { HostFiles } from '../../workers/host-paths/read-file.ts';
import type { Config } from './config.ts';
import {
  DEFAULT_PATH,
  isTable,
  type Layers,
  mergeSources,
  type Origin,
  readSources,
  readSourcesWith,
  SourceError,
  type SourceFile,
  type Table,
} from './layers.ts';
import { defaultOf, type Facts, facts, type Key, type KeyPath, type KeyValue, SCHEMA, SECTIONS } from './schema.ts';
import { suggest } from './suggest.ts';

interface Problem {
  file: string;
  /** Line number, from 1; absent when the problem has no position in the file. */
  line?: number;
  /** Dotted key; "" for the whole file. */
  key: string;
  message: string;
}

/** CONFIG_INVALID with all problems of one configuration. */
export class ConfigError extends SluiceError {
  readonly problems: readonly Problem[];

  constructor(problems: readonly Problem[], cause?: unknown) {
    super('CONFIG_INVALID', problems.map(formatProblem).join('\n'), { cause });
    this.problems = problems;
  }
}

/** Formats a problem as `/etc/sluice/config.toml:12: cni.conf_dir must be an absolute path`. */
function formatProblem({ file, line, key, message }: Problem): string {
  return `${file}${line === undefined ? '' : `:${line}`}: ${key === '' ? '' : `${key} `}${message}`;
}

/** A configuration with the places that its values come from. */
export interface LoadedConfig {
  config: Config;
  /** The files it was made from, in order. */
  files: string[];
  /** Where the key at a path is set; undefined for one at its default. */
  origin(path: readonly string[]): Origin | undefined;
}

/**
 * Reads and checks the configuration file and its drop-ins. Without a path it reads {@link DEFAULT_PATH}, and uses the
 * built-in defaults when that file does not exist; a file given as `path` must exist. Throws {@link ConfigError} with
 * all problems at once.
 */
export function loadConfig(path: string | undefined): Config {
  return loadSources(path).config;
}

/** {@link loadConfig}, with the files and where each value comes from. */
export function loadSources(path: string | undefined): LoadedConfig {
  try {
    const sources = readSources(path);
    const { config, layers } = readAll(sources, path ?? DEFAULT_PATH, facts());
    return { config, files: sources.map(({ file }) => file), origin: (at) => layers.origin(at) };
  } catch (error) {
    throw asConfigError(error);
  }
}

/**
 * {@link loadConfig} for a running daemon: the files are read by `host`, since they may lie on a mount that hangs.
 * Throws {@link ConfigError}.
 */
export async function reloadConfig(path: string | undefined, host: HostFiles): Promise<Config> {
  try {
    return readAll(await readSourcesWith(path, host), path ?? DEFAULT_PATH, facts()).config;
  } catch (error) {
    throw asConfigError(error);
  }
}

/** The problems of a configuration, one line each, for `sluice config check`; empty when it is valid. */
export function checkConfig(path: string | undefined): string[] {
  try {
    loadConfig(path);
    return [];
  } catch (error) {
    if (error instanceof ConfigError) return error.problems.map(formatProblem);
    throw error;
  }
}

/**
 * Parses and checks the text of a configuration; `file` is its name in errors. Throws {@link ConfigError} with all
 * problems.
 */
export function parseConfig(text: string, file: string, machine: Facts = facts()): Config {
  try {
    return readAll([{ file, text }], file, machine).config;
  } catch (error) {
    throw asConfigError(error);
  }
}

function readAll(sources: readonly SourceFile[], main: string, machine: Facts): { config: Config; layers: Layers } {
  const layers = mergeSources(sources);
  const reader = new Reader(layers, main, machine);
  const config = reader.read(layers.merged);
  if (reader.problems.length > 0) {
    const order = (file: string) => sources.findIndex((source) => source.file === file);
    throw new ConfigError(
      reader.problems.toSorted((a, b) => order(a.file) - order(b.file) || (a.line ?? 0) - (b.line ?? 0)),
    );
  }
  return { config, layers };
}

function asConfigError(error: unknown): unknown {
  if (!(error instanceof SourceError)) return error;
  const { file, line, message, cause } = error;
  return new ConfigError([{ file, line, key: '', message }], cause);
}

class Reader {
  readonly problems: Problem[] = [];
  readonly #layers: Layers;
  /** The file of problems that have no place in any. */
  readonly #main: string;
  readonly #facts: Facts;

  constructor(layers: Layers, main: string, facts: Facts) {
    this.#layers = layers;
    this.#main = main;
    this.#facts = facts;
  }

  read(toml: Table): Config {
    this.#refuseUnknown(toml, []);
    const names = new Set(['runc', ...Object.keys(isTable(toml.runtimes) ? toml.runtimes : {})]);
    const config: Table = {};
    for (const [schemaPath, key] of Object.entries(SCHEMA)) {
      const path = schemaPath.split('.');
      const paths = path[1] === 'NAME' ? [...names].map((name) => path.with(1, name)) : [path];
      for (const at of paths) put(config, at, this.#value(toml, at, key));
    }
    const whole = config as unknown as Config;
    for (const runtime of Object.values(whole.runtimes)) runtime.runtime_root ||= `${whole.state}/runc`;
    this.#checkTogether(whole);
    return whole;
  }

  #value(toml: Table, path: string[], key: Key): KeyValue {
    const facts = { ...this.#facts, name: path[0] === 'runtimes' ? (path[1] ?? '') : this.#facts.name };
    const value = get(toml, path);
    if (value === undefined) return defaultOf(key, facts);
    const expected = typeProblem(value, key);
    const message = expected ? `must be ${expected}, not ${describe(value)}` : key.check?.(value as never);
    if (message === undefined) return value as KeyValue;
    this.#problem(path, message);
    return defaultOf(key, facts);
  }

  /** Checks that involve more than one key. */
  #checkTogether(config: Config): void {
    if (!Object.hasOwn(config.runtimes, config.default_runtime)) {
      const names = Object.keys(config.runtimes);
      const meant = suggest(config.default_runtime, names);
      this.#problem(
        ['default_runtime'],
        `is "${config.default_runtime}", but there is no [runtimes.${quoteKey(config.default_runtime)}]${meant ? `; did you mean "${meant}"?` : ` (there is ${names.join(', ')})`}`,
      );
    }
    for (const [name, { pods_per_shim: pods, shim, sandbox_mode: mode }] of Object.entries(config.runtimes)) {
      if (pods <= 1 || (basename(shim) === 'containerd-shim-runc-v2' && mode !== 'pause')) continue;
      const why = mode === 'pause' ? 'sandbox_mode is "pause"' : `the shim is ${shim}`;
      this.#problem(['runtimes', name, 'pods_per_shim'], `must be 1, because ${why}`);
    }
    if (config.root === config.state) this.#problem(['state'], 'must not be the same folder as root');
    const { tls_cert, tls_key } = config.streaming;
    if (tls_cert !== '' && tls_cert !== 'self-signed' && tls_key === '')
      this.#problem(['streaming', 'tls_cert'], 'needs streaming.tls_key as well');
    if (tls_key !== '' && tls_cert === '') this.#problem(['streaming', 'tls_key'], 'needs streaming.tls_cert as well');
  }

  #refuseUnknown(table: Table, path: string[]): void {
    const schemaPath = path.map((part, i) => (i === 1 && path[0] === 'runtimes' ? 'NAME' : part));
    const known = childrenOf(schemaPath);
    for (const [name, value] of Object.entries(table)) {
      const here = [...path, name];
      const kind = schemaPath.join('.') === 'runtimes' ? 'table' : known.get(name);
      if (kind === undefined) {
        const meant = suggest(name, known.keys()) ?? elsewhere(name);
        this.#problem(
          here,
          `is not a key of the configuration${meant === undefined ? '' : `; did you mean ${meant}?`}`,
        );
      } else if (kind === 'table') {
        if (isTable(value)) this.#refuseUnknown(value, here);
        else this.#problem(here, `must be a table, not ${describe(value)}`);
      }
    }
    if (path.length === 1 && path[0] === 'runtimes') {
      for (const name of Object.keys(table)) {
        if (!/^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$/.test(name)) {
          this.#problem(
            [...path, name],
            'is not a valid name of a runtime: letters, digits, ".", "_" and "-" are allowed, letters and digits at both ends',
          );
        }
      }
    }
  }

  #problem(path: readonly string[], message: string): void {
    const { file, line } = this.#layers.origin(path, true) ?? { file: this.#main, line: undefined };
    this.problems.push({ file, line, key: path.map(quoteKey).join('.'), message });
  }
}

/** The names directly below a table of the schema, each with its kind. */
function childrenOf(path: readonly string[]): Map<string, 'key' | 'table'> {
  const children = new Map<string, 'key' | 'table'>();
  const prefix = path.length === 0 ? '' : `${path.join('.')}.`;
  for (const key of Object.keys(SCHEMA)) {
    if (!key.startsWith(prefix)) continue;
    const [name = '', ...rest] = key.slice(prefix.length).split('.');
    children.set(name, rest.length === 0 ? 'key' : 'table');
  }
  return children;
}

/** Path of a key with this name in another table: a top-level `max_running` probably belongs to [pipeline]. */
function elsewhere(name: string): string | undefined {
  const all = [...(Object.keys(SCHEMA) as KeyPath[]), ...Object.keys(SECTIONS)];
  return all.find((path) => path.split('.').at(-1) === name);
}

function typeProblem(value: unknown, { type }: Key): string | undefined {
  switch (type) {
    case 'string':
      return typeof value === 'string' ? undefined : 'a string';
    case 'boolean':
      return typeof value === 'boolean' ? undefined : 'true or false';
    case 'switch':
      return typeof value === 'boolean' || value === 'auto' ? undefined : '"auto", true or false';
    case 'number':
      return typeof value === 'number' && Number.isFinite(value) ? undefined : 'a number';
    case 'integer':
      return Number.isSafeInteger(value) ? undefined : 'a whole number';
    case 'strings':
      return Array.isArray(value) && value.every((item) => typeof item === 'string') ? undefined : 'a list of strings';
  }
}

function describe(value: unknown): string {
  if (value instanceof Date) return 'a date';
  if (Array.isArray(value)) {
    const other = value.find((item) => typeof item !== 'string');
    return other === undefined ? 'a list' : `a list with ${describe(other)} in it`;
  }
  if (typeof value === 'object') return 'a table';
  return typeof value === 'string' ? `the string ${JSON.stringify(value)}` : String(value);
}

function get(table: Table, path: readonly string[]): unknown {
  let value: unknown = table;
  for (const name of path) {
    if (!isTable(value) || !Object.hasOwn(value, name)) return undefined;
    value = value[name];
  }
  return value;
}

function put(table: Table, path: readonly string[], value: KeyValue): void {
  let here = table;
  for (const name of path.slice(0, -1)) {
    let next = Object.hasOwn(here, name) ? here[name] : undefined;
    if (!isTable(next)) {
      next = {};
      here[name] = next;
    }
    here = next as Table;
  }
  here[path.at(-1) ?? ''] = value;
}

const quoteKey = (name: string) => (/^[A-Za-z0-9_-]+$/.test(name) ? name : JSON.stringify(name));
