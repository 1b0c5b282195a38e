import { readFileSync } from 'node:fs';

/**
 * Mount points at or below `path`, the last mounted first, as this thread sees them. Reads the whole mount table, which is
 * long on a full node: for clean-up that met something unexpected, not for the way every pod goes.
 */
export function mountsBelow(path: string, table = readFileSync('/proc/self/mountinfo', 'utf8')): string[] {
  const found: string[] = [];
  // The kernel writes space, tab, newline and backslash as octal. Mostly there is nothing to find, and then no line is taken apart.
  const written = path.replace(/[ \t\n\\]/g, (char) => `\\${char.charCodeAt(0).toString(8).padStart(3, '0')}`);
  if (!table.includes(` ${written}`)) return found;
  for (const line of table.split('\n')) {
    const field = line.split(' ', 5)[4];
    if (field === undefined) continue;
    const mountPoint = field.replace(/\\([0-7]{3})/g, (_match, octal: string) =>
      String.fromCharCode(parseInt(octal, 8)),
    );
    if (mountPoint === path || mountPoint.startsWith(`${path}/`)) found.push(mountPoint);
  }
  return found.reverse();
}
