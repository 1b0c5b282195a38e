/**
 * Reads /proc and cgroup files. The kernel produces them in microseconds, so the reads are synchronous: a round trip
 * through libuv's pool takes longer than the read.
 */
import { readFileSync } from 'node:fs';

/**
 * The file is absent, or its process or cgroup went away during the read; ENOTSUP: the kernel has the feature disabled.
 */
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

/** The number in a file; undefined when the file is gone or contains "max" (no limit). */
export function readNumber(path: string): bigint | undefined {
  return toNumber(readText(path)?.trim());
}

/** The numbers in a file of `name number` lines; empty when the file is gone. */
export function readNumbers(path: string): Map<string, bigint> {
  return parseNumbers(readText(path) ?? '');
}

function parseNumbers(text: string): Map<string, bigint> {
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
