/**
 * Paths of a layer below the folder it is unpacked to. Nobody else writes there, so what was seen to be a real folder stays
 * one until this object replaces it: each folder is looked at once, and a path through a hundred thousand files costs nothing.
 *
 * Paths are latin1, one character for each byte, relative, without `.`, `..` or empty parts; '' is the root.
 */
import { lstatSync, mkdirSync, readlinkSync, rmSync, type Stats } from 'node:fs';
import type { BytePath } from '../sys/attributes.ts';
import { TarError } from './tar-header.ts';

/** The kernel's own limit for symbolic links in one path. */
const MAX_LINKS = 40;
/** What folders have until the archive says more: nobody else comes in, and nothing is inherited from a setgid folder. */
export const UNPACKING_MODE = 0o700;

export class Tree {
  readonly #root: string;
  readonly #folders = new Set<string>(['']);
  /** Called for a folder that had to be made although the archive has not named it (yet), perhaps in a whiteout's place. */
  readonly #onImplied: (path: string, whiteout: boolean) => void;
  /** Called for what was removed, and everything below it. */
  readonly #onRemoved: (path: string) => void;
  readonly #isWhiteout: (path: string) => boolean;

  constructor(
    root: string,
    events: {
      onImplied: (path: string, whiteout: boolean) => void;
      onRemoved: (path: string) => void;
      isWhiteout: (path: string) => boolean;
    },
  ) {
    this.#root = Buffer.from(root).toString('latin1');
    this.#onImplied = events.onImplied;
    this.#onRemoved = events.onRemoved;
    this.#isWhiteout = events.isWhiteout;
  }

  /** For the fs functions: text where it is ASCII, which is fast, and bytes where it is not. */
  at(path: string): BytePath {
    const full = path === '' ? this.#root : `${this.#root}/${path}`;
    // biome-ignore lint/suspicious/noControlCharactersInRegex: ASCII is what it asks for
    return /^[\x00-\x7f]*$/.test(full) ? full : Buffer.from(full, 'latin1');
  }

  look(path: string): Stats | undefined {
    return lstatSync(this.at(path), { throwIfNoEntry: false });
  }

  isFolder(path: string): boolean {
    return this.#folders.has(path);
  }

  addFolder(path: string): void {
    this.#folders.add(path);
  }

  /**
   * Where the entry of this name belongs: its parents resolved inside the root (links on the way are followed, absolute ones from the
   * root, `..` never above it) and made where they are missing; the last part is not followed.
   */
  place(name: string): string {
    const clean = cleanPath(name);
    const slash = clean.lastIndexOf('/');
    if (slash < 0) return clean;
    const parent = this.#folder(clean.slice(0, slash), name);
    const base = clean.slice(slash + 1);
    return parent === '' ? base : `${parent}/${base}`;
  }

  /** Removes what is there, whatever it is. */
  remove(path: string): void {
    rmSync(this.at(path), { recursive: true, force: true });
    if (this.#folders.delete(path)) {
      const below = `${path}/`;
      for (const folder of this.#folders) if (folder.startsWith(below)) this.#folders.delete(folder);
    }
    this.#onRemoved(path);
  }

  #folder(path: string, name: string): string {
    if (this.#folders.has(path)) return path;
    const todo = path.split('/').reverse();
    let here = '';
    let links = 0;
    for (let part = todo.pop(); part !== undefined; part = todo.pop()) {
      if (part === '' || part === '.') continue;
      if (part === '..') {
        here = parentOf(here);
        continue;
      }
      const next = here === '' ? part : `${here}/${part}`;
      if (this.#folders.has(next)) {
        here = next;
        continue;
      }
      const stat = this.look(next);
      if (stat?.isSymbolicLink()) {
        if (++links > MAX_LINKS) throw new TarError(`${printable(name)}: too many symbolic links`);
        const target = readlinkSync(this.at(next), 'latin1');
        if (target.startsWith('/')) here = '';
        todo.push(...target.split('/').reverse());
        continue;
      }
      const whiteout = this.#isWhiteout(next);
      if (!stat || whiteout) {
        if (stat) this.remove(next);
        mkdirSync(this.at(next), UNPACKING_MODE);
        this.#onImplied(next, whiteout);
      } else if (!stat.isDirectory()) {
        throw new TarError(`${printable(name)}: ${printable(next)} is no folder`);
      }
      this.#folders.add(next);
      here = next;
    }
    return here;
  }
}

/** The path without `.`, `..` (which stops at the root) and needless slashes. Throws for a name with a NUL. */
export function cleanPath(name: string): string {
  if (name.includes('\0')) throw new TarError(`the name ${printable(name)} holds a NUL`);
  // Most names are clean, up to the slash after a folder.
  if (!/(^|\/)(\.{0,2})(\/|$)/.test(name)) return name;
  const parts: string[] = [];
  for (const part of name.split('/')) {
    if (part === '..') parts.pop();
    else if (part !== '' && part !== '.') parts.push(part);
  }
  return parts.join('/');
}

export const parentOf = (path: string) => path.slice(0, Math.max(0, path.lastIndexOf('/')));

/** A latin1 name as people read it. */
export const printable = (name: string) => JSON.stringify(Buffer.from(name, 'latin1').toString());
