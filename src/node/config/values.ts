/** A configuration as a list of keys and values, and which of them a running daemon takes over. */
import { isDeepStrictEqual } from 'node:util';
import type { Config } from './config.ts';
import { isTable } from './layers.ts';
import { type KeyPath, SCHEMA } from './schema.ts';

export interface Change {
  key: readonly string[];
  /** undefined where only the other configuration has the key. */
  from: unknown;
  to: unknown;
}

/** Every key of a configuration with its value, in order. */
export function* flatten(config: Config): Generator<readonly [key: readonly string[], value: unknown]> {
  yield* leaves(config as unknown as Record<string, unknown>, []);
}

function* leaves(table: Record<string, unknown>, path: readonly string[]): ReturnType<typeof flatten> {
  for (const [name, value] of Object.entries(table)) {
    const key = [...path, name];
    if (isTable(value)) yield* leaves(value, key);
    else yield [key, value];
  }
}

/** The keys whose values differ. */
export function differences(before: Config, after: Config): Change[] {
  const from = new Map([...flatten(before)].map(([key, value]) => [key.join('\0'), value]));
  const to = new Map([...flatten(after)].map(([key, value]) => [key.join('\0'), value]));
  return [...new Set([...from.keys(), ...to.keys()])]
    .filter((key) => !isDeepStrictEqual(from.get(key), to.get(key)))
    .map((key) => ({ key: key.split('\0'), from: from.get(key), to: to.get(key) }));
}

/**
 * Must a running daemon be started anew to take over a change, or does a reload (SIGHUP) do? A runtime that is removed
 * stays while pods have it: `used` has the names of those.
 */
export function needsRestart({ key, to }: Change, used: ReadonlySet<string>): boolean {
  const path = (key[0] === 'runtimes' ? key.with(1, 'NAME') : key).join('.');
  if (SCHEMA[path as KeyPath]?.live !== true) return true;
  return key[0] === 'runtimes' && to === undefined && used.has(key[1] ?? '');
}
