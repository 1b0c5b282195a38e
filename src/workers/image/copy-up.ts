import { chmodSync, constants, copyFileSync, lchownSync, linkSync, lstatSync } from 'node:fs';
import { getXattr, listXattrs, setTimes, setXattr } from '../../sys/attributes.ts';
import { native } from './byte-paths.ts';
import { invalid } from './invalid.ts';
import { findInLayers } from './read-file.ts';
import { printable } from './tar.ts';

const MAX_XATTR = 64 << 10;
/** The archive has put something else in the way. */
const NAME_FAULTS = new Set(['EEXIST', 'ENOTDIR', 'ENOENT', 'EMLINK', 'ENAMETOOLONG']);

/**
 * Makes hard links to files that only layers below have, as overlayfs does for link(2): the file is copied into this
 * layer, with its owner, mode, attributes and times, and further links to it lead to the copy. `root` and `trees`
 * (topmost first) are folders of layers, names have one byte per character. Throws IMAGE_INVALID when no layer has the
 * file.
 */
export function copyUp(
  root: string,
  links: readonly { path: string; target: string }[],
  trees: readonly string[],
): void {
  const copies = new Map<string, string>();
  for (const { path, target } of links) {
    const to = `${root}/${path}`;
    const copy = copies.get(target);
    const from = copy ?? findInLayers([...trees], target);
    if (from === undefined)
      throw invalid(
        `${printable(path)}: hard link to ${printable(target)}, which neither the layer nor those below have`,
      );
    try {
      if (copy !== undefined) linkSync(native(copy), native(to));
      else copyFile(from, to);
    } catch (error) {
      const { code = '' } = error as NodeJS.ErrnoException;
      if (!NAME_FAULTS.has(code)) throw error;
      throw invalid(`${printable(path)}: hard link to ${printable(target)}: ${(error as Error).message}`, error);
    }
    if (copy === undefined) copies.set(target, to);
  }
}

/** Copies a regular file with its attributes; shares its blocks where the file system can. */
export function copyFile(from: string, to: string): void {
  copyFileSync(native(from), native(to), constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
  copyAttributes(from, to);
}

/** Owner, mode, extended attributes and times. Those of overlayfs itself stay behind. */
export function copyAttributes(from: string, to: string): void {
  const { uid, gid, mode, atimeNs, mtimeNs } = lstatSync(native(from), { bigint: true });
  lchownSync(native(to), Number(uid), Number(gid));
  if ((Number(mode) & constants.S_IFMT) !== constants.S_IFLNK) chmodSync(native(to), Number(mode) & 0o7777);
  for (const name of listXattrs(native(from))) {
    const value = name.startsWith('trusted.') ? undefined : getXattr(native(from), name, MAX_XATTR);
    if (value) setXattr(native(to), native(name), value);
  }
  setTimes(native(to), timeOf(atimeNs), timeOf(mtimeNs));
}

const timeOf = (ns: bigint) => ({ seconds: Number(ns / 1_000_000_000n), nanoseconds: Number(ns % 1_000_000_000n) });
