/** Walks over whole trees whose names may be any bytes, never following a symbolic link. */
import { lstatSync, readdirSync, rmdirSync, unlinkSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import { native } from './names.ts';

/** Between so many files other calls of this thread get their turn. */
const SLICE = 2000;

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
