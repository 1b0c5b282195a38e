import { readFileSync, writeFileSync } from 'node:fs';

const FILE = '/proc/self/oom_score_adj';
const LOWEST = -1000;

/**
 * Returns the lowest oom_score_adj that this process may give to its children: -1000 with CAP_SYS_RESOURCE in the
 * initial user namespace, otherwise its own value. runc fails on a lower one. The function tries to lower its own value
 * and restores it, because CapEff shows CAP_SYS_RESOURCE inside any user namespace, while the kernel checks it in the
 * initial one. Call it once, at start. Throws the file system's error when /proc cannot be read or written for another
 * reason.
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
