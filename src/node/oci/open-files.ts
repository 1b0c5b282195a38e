import { readFileSync } from 'node:fs';
import type { OpenFiles } from './base.ts';

/**
 * The open-files limit that pods shall have: the soft limit the daemon was started with (bin/sluiced passes it on, since Node
 * raises its own to the hard one before any of our code runs) under the hard limit of now.
 */
export function openFiles(env = process.env): OpenFiles | undefined {
  const hard = Number(/^Max open files\s+\d+\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1]);
  if (!Number.isSafeInteger(hard)) return undefined; // "unlimited" does not exist for open files
  const soft = Number(env.SLUICE_NOFILE_SOFT);
  return { soft: Number.isSafeInteger(soft) && soft > 0 ? Math.min(soft, hard) : hard, hard };
}
