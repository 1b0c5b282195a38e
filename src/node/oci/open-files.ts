import { readFileSync } from 'node:fs';
import type { OpenFiles } from './base.ts';

/**
 * RLIMIT_NOFILE for containers: the soft limit that the daemon was started with, and its hard limit. bin/sluiced passes
 * the soft limit in SLUICE_NOFILE_SOFT, because Node raises its own soft limit to the hard limit before any script
 * runs. Undefined when /proc/self/limits has no number.
 */
export function openFiles(env = process.env): OpenFiles | undefined {
  const hard = Number(/^Max open files\s+\d+\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1]);
  if (!Number.isSafeInteger(hard)) return undefined; // not expected: the kernel caps it at fs.nr_open
  const soft = Number(env.SLUICE_NOFILE_SOFT);
  return { soft: Number.isSafeInteger(soft) && soft > 0 ? Math.min(soft, hard) : hard, hard };
}
