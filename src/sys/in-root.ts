import { lstatSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';

/** The kernel's limit for symbolic links in one path (MAXSYMLINKS). */
const MAX_LINKS = 40;

/**
 * Resolves `path` below `root` as chroot would: links are followed inside the root, absolute ones start at the root,
 * and `..` does not leave it. Components that do not exist are kept as written. It looks at one component after the
 * other, so it is safe only in trees that nobody changes at the same time. Throws ELOOP after 40 links.
 */
export function within(root: string, path: string): string {
  const todo = path.split('/');
  const done: string[] = [];
  let links = 0;
  for (let part = todo.shift(); part !== undefined; part = todo.shift()) {
    if (part === '' || part === '.') continue;
    if (part === '..') {
      done.pop();
      continue;
    }
    const here = join(root, ...done, part);
    if (!isLink(here)) {
      done.push(part);
      continue;
    }
    if (++links > MAX_LINKS) throw Object.assign(new Error(`too many symbolic links in ${path}`), { code: 'ELOOP' });
    const target = readlinkSync(here);
    if (target.startsWith('/')) done.length = 0;
    todo.unshift(...target.split('/'));
  }
  return join(root, ...done);
}

function isLink(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() ?? false;
}
