import { readFileSync } from 'node:fs';

/**
 * Mount points at or below `path`, the last mounted first, as this thread sees them. Reads the whole mount table, which is
 * long on a full node: for clean-up that met something unexpected, not for the way every pod goes.
 */
export function mountsBelow(path: string, table = readFileSync('/proc/self/mountinfo', 'utf8')): string[] {
  const found: string[] = [];
  for (const line of table.split('\n')) {
    const field = line.split(' ', 5)[4];
    if (field === undefined) continue;
    // The kernel writes space, tab, newline and backslash as octal.
    const mountPoint = field.replace(/\\([0-7]{3})/g, (_match, octal: string) =>
      String.fromCharCode(parseInt(octal, 8)),
    );
    if (mountPoint === path || mountPoint.startsWith(`${path}/`)) found.push(mountPoint);
  }
  return found.reverse();
}
