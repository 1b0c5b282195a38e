import { lstatSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';

/** The kernel's limit for symbolic links in one path (MAXSYMLINKS). */
const MAX_LINKS = 40;

/** A position in a tree that {@link walkInRoot} moves. */
export interface Position {
  /**
   * Looks at the entry `name` without following it. Returns the target of a symbolic link; otherwise moves to the
   * entry, or returns `stop` to end the walk. `rest` has the components that follow.
   */
  enter(name: string, rest: readonly string[]): { link: string } | 'entered' | 'stop';
  /** Moves to the parent; at the root it stays there. */
  leave(): void;
  /** Moves to the root. */
  restart(): void;
  /** The error to throw after 40 links, as the kernel does with ELOOP. */
  tooManyLinks(): Error;
}

/**
 * Walks a path as chroot would: links are followed inside the root, absolute ones start at the root, and `..` does not
 * leave it. It looks at one component after the other, so it is safe only in trees that nobody changes at the same
 * time.
 */
export function walkInRoot(components: readonly string[], position: Position): void {
  const todo = [...components];
  let links = 0;
  for (let name = todo.shift(); name !== undefined; name = todo.shift()) {
    if (name === '' || name === '.') continue;
    if (name === '..') {
      position.leave();
      continue;
    }
    const outcome = position.enter(name, todo);
    if (outcome === 'entered') continue;
    if (outcome === 'stop') return;
    if (++links > MAX_LINKS) throw position.tooManyLinks();
    if (outcome.link.startsWith('/')) position.restart();
    todo.unshift(...outcome.link.split('/'));
  }
}

/**
 * Resolves `path` below `root` with {@link walkInRoot}. Components that do not exist are kept as written. Throws ELOOP
 * after 40 links.
 */
export function resolveInRoot(root: string, path: string): string {
  const done: string[] = [];
  walkInRoot(path.split('/'), {
    enter(name) {
      const here = join(root, ...done, name);
      if (lstatSync(here, { throwIfNoEntry: false })?.isSymbolicLink()) return { link: readlinkSync(here) };
      done.push(name);
      return 'entered';
    },
    leave: () => void done.pop(),
    restart: () => void done.splice(0),
    tooManyLinks: () => Object.assign(new Error(`too many symbolic links in ${path}`), { code: 'ELOOP' }),
  });
  return join(root, ...done);
}
