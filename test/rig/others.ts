/** What users of the host other than root can do with files. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { run } from './proc.ts';

/** uid and gid of `nobody` on most systems: nothing belongs to it. */
export const NOBODY = 65534;

/** Every path at and below `folder`, also inside of what is mounted there; at most `most` entries. */
export function allPaths(folder: string, most = 50_000): string[] {
  const found = [folder];
  const walk = (dir: string) => {
    for (const entry of readdirSync(dir, { withFileTypes: true })) {
      if (found.length >= most) return;
      const path = join(dir, entry.name);
      found.push(path);
      if (entry.isDirectory()) walk(path);
    }
  };
  walk(folder);
  return found;
}

/**
 * The paths that a process with these ids and no supplementary groups can read, write or execute (for a folder: list,
 * change or enter), each with the letters r, w and x in front.
 */
export async function openTo(ids: { uid: number; gid: number }, paths: readonly string[]): Promise<string[]> {
  const script =
    'while IFS= read -r p; do m=; [ -r "$p" ] && m=r; [ -w "$p" ] && m="$m"w; [ -x "$p" ] && m="$m"x; [ -z "$m" ] || echo "$m $p"; done';
  const { stdout } = await as(ids, script, `${paths.join('\n')}\n`);
  return stdout.split('\n').filter(Boolean);
}

/** Runs a shell line as another user, and gives its output and status. */
export function as({ uid, gid }: { uid: number; gid: number }, line: string, input = '') {
  const argv = [`--reuid=${uid}`, `--regid=${gid}`, '--clear-groups', 'sh', '-c', line];
  return run('setpriv', argv, { check: false, input });
}
