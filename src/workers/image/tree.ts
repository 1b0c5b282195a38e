/** Walks over whole trees whose names may be any bytes, never following a symbolic link. */
import { lstatSync, readdirSync, rmdirSync, unlinkSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import { native } from './names.ts';

export interface Usage {
  /** What the disk holds: whole blocks, folders included, a file with several names once. */
  bytes: number;
  inodes: number;
}

/** Between so many files other calls of this thread get their turn. */
const SLICE = 2000;

/** The disk use of a folder and all below it. */
export async function usage(root: string): Promise<Usage> {
  const linked = new Set<number>();
  let bytes = 0;
  let inodes = 0;
  const count = (path: string): boolean => {
    const stats = lstatSync(native(path));
    const folder = stats.isDirectory();
    if (!folder && stats.nlink > 1) {
      if (linked.has(stats.ino)) return false;
      linked.add(stats.ino);
    }
    bytes += stats.blocks * 512;
    inodes++;
    return folder;
  };
  const todo = count(root) ? [root] : [];
  let seen = 0;
  for (let folder = todo.pop(); folder !== undefined; folder = todo.pop()) {
    for (const name of names(folder)) {
      const path = `${folder}/${name}`;
      if (count(path)) todo.push(path);
      if (++seen % SLICE === 0) await turn();
    }
  }
  return { bytes, inodes };
}

/** Removes a tree; one that is not there is fine. */
export async function removeTree(root: string): Promise<void> {
  let seen = 0;
  for (const _ of removing(root)) if (++seen % SLICE === 0) await turn();
}

export function removeTreeSync(root: string): void {
  for (const _ of removing(root));
}

function* removing(root: string): Generator<undefined> {
  const stats = lstatSync(native(root), { throwIfNoEntry: false });
  if (!stats) return;
  if (!stats.isDirectory()) {
    unlinkSync(native(root));
    return;
  }
  // Each folder is met twice: to empty it of files, and, once its folders are gone, to remove it.
  const todo: { path: string; emptied: boolean }[] = [{ path: root, emptied: false }];
  for (let folder = todo.at(-1); folder; folder = todo.at(-1)) {
    if (folder.emptied) {
      rmdirSync(native(folder.path));
      todo.pop();
      yield;
      continue;
    }
    folder.emptied = true;
    for (const entry of readdirSync(native(folder.path), {
      withFileTypes: true,
      encoding: 'latin1' as BufferEncoding,
    })) {
      const path = `${folder.path}/${entry.name}`;
      if (entry.isDirectory()) todo.push({ path, emptied: false });
      else {
        unlinkSync(native(path));
        yield;
      }
    }
  }
}

function names(folder: string): string[] {
  return readdirSync(native(folder), { encoding: 'latin1' });
}
