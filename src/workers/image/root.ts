import { chmodSync, lchownSync, lstatSync, mkdirSync, readlinkSync, type Stats } from 'node:fs';
import { walkInRoot } from '../../sys/in-root.ts';
import { components, native } from './byte-paths.ts';
import { invalid } from './invalid.ts';
import { printable } from './tar.ts';

interface RootCalls {
  /**
   * Called for each `folder` (relative to the root) that a name needs and that does not exist or, as `found`, is
   * something else.
   */
  make: (folder: string, found: Stats | undefined) => void;
  /** Called before what is at a path (absolute) is examined. */
  before?: (path: string) => void;
}

/**
 * Finds the folders of an archive's names below one root. Every component is examined with lstat; symbolic links are
 * then resolved as chroot would, so that no name leads out. Folders are cached until {@link forget}, which must be
 * called when a folder or a link is replaced.
 */
export class Root {
  readonly path: string;
  readonly #known = new Map<string, string>();
  /** Folders and links on the way to those: absolute. */
  readonly #through = new Set<string>();
  /** The last answer: one entry after the other is in the same folder, and mostly they come with the same array. */
  #last: { parts: readonly string[]; found: string } | undefined;
  readonly #calls: RootCalls;

  constructor(path: string, calls: RootCalls) {
    this.path = path;
    this.#calls = calls;
  }

  /** It is a folder, or a link, that a name has led through since {@link forget}. */
  leadsThrough(path: string): boolean {
    return this.#through.has(path);
  }

  forget(): void {
    this.#known.clear();
    this.#through.clear();
    this.#last = undefined;
  }

  /** A cleaned relative name as an absolute path. */
  at(relative: string): string {
    return relative === '' ? this.path : `${this.path}/${relative}`;
  }

  /** The real folder, relative to the root, that these components name; made when it is missing, if `make` says so. */
  folder(parts: readonly string[]): string {
    if (this.#last?.parts === parts) return this.#last.found;
    const key = parts.join('/');
    let found = this.#known.get(key);
    if (found === undefined) {
      found = this.#walk(parts, key);
      this.#known.set(key, found);
    }
    this.#last = { parts, found };
    return found;
  }

  #walk(parts: readonly string[], key: string): string {
    // Mostly the folder above is known, and one look is enough.
    const above = this.#known.get(parts.slice(0, -1).join('/'));
    let here = above ?? '';
    walkInRoot(above === undefined ? parts : parts.slice(-1), {
      enter: (name) => {
        const next = here === '' ? name : `${here}/${name}`;
        const path = this.at(next);
        this.#calls.before?.(path);
        const stats = look(path);
        this.#through.add(path);
        if (stats?.isSymbolicLink()) return { link: readlinkSync(native(path), 'latin1') };
        if (!stats?.isDirectory()) this.#calls.make(next, stats);
        here = next;
        return 'entered';
      },
      leave: () => {
        here = here.slice(0, Math.max(here.lastIndexOf('/'), 0));
      },
      restart: () => {
        here = '';
      },
      tooManyLinks: () => invalid(`${printable(key)}: too many symbolic links`),
    });
    return here;
  }
}

/** lstat, or undefined when there is nothing. */
export function look(path: string): Stats | undefined {
  return lstatSync(native(path), { throwIfNoEntry: false });
}

/**
 * Copies owner and mode to the folder at `path` from the one called `relative` in the first of these trees that has it;
 * returns false when none has. A tree that does not exist counts as empty.
 */
export function inheritFromTrees(path: string, relative: string, trees: readonly string[]): boolean {
  for (const tree of trees) {
    const root = new Root(tree, {
      make: () => {
        throw missing;
      },
    });
    try {
      const { uid, gid, mode } = lstatSync(native(root.at(root.folder(components(relative)))));
      lchownSync(native(path), uid, gid);
      chmodSync(native(path), mode & 0o7777);
      return true;
    } catch (error) {
      if (error !== missing) throw error;
    }
  }
  return false;
}

const missing = new Error('the folder is not there');

export function makeFolder(path: string): void {
  mkdirSync(native(path), 0o755);
}
