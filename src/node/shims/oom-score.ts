import { readFileSync, writeFileSync } from 'node:fs';

const FILE = '/proc/self/oom_score_adj';
const LOWEST = -1000;

/**
 * The lowest oom_score_adj that this process may give to its children: -1000 with CAP_SYS_RESOURCE in the first user namespace,
 * otherwise its own; runc fails on a lower one. Found by trying, since the capability's bit says nothing inside a user namespace. Call once at start.
 */
export function lowestOomScore(): number {
  const own = Number(readFileSync(FILE, 'utf8'));
  if (own <= LOWEST) return LOWEST;
  try {
    writeFileSync(FILE, String(LOWEST));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS') return own;
    throw error;
  }
  writeFileSync(FILE, String(own));
  return LOWEST;
}
