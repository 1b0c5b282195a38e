/**
 * Reads of /proc and cgroup files. They are made by the kernel in microseconds, so they are read synchronously: a round trip
 * through libuv's pool costs more than the read.
 */
import { readFileSync } from 'node:fs';

/** The file is not there, or its process or cgroup went away while it was read; ENOTSUP: the kernel has it switched off. */
const GONE = new Set(['ENOENT', 'ENODEV', 'ESRCH', 'ENOTDIR', 'EOPNOTSUPP', 'ENOTSUP']);

export function isGone(error: unknown): boolean {
  return GONE.has((error as NodeJS.ErrnoException).code ?? '');
}

/** The text of a file; undefined when it is gone. */
export function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'latin1');
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
}

/** A file that holds one number; undefined when it is gone, or holds "max" (no limit). */
export function readNumber(path: string): bigint | undefined {
  return toNumber(readText(path)?.trim());
}

/** A file of `name number` lines; empty when it is gone. */
export function readNumbers(path: string): Map<string, bigint> {
  return parseNumbers(readText(path) ?? '');
}

export function parseNumbers(text: string): Map<string, bigint> {
  const numbers = new Map<string, bigint>();
  for (const line of text.split('\n')) {
    const space = line.indexOf(' ');
    const value = toNumber(line.slice(space + 1).trim());
    if (space > 0 && value !== undefined) numbers.set(line.slice(0, space), value);
  }
  return numbers;
}

function toNumber(text: string | undefined): bigint | undefined {
  return text !== undefined && /^-?\d+$/.test(text) ? BigInt(text) : undefined;
}
