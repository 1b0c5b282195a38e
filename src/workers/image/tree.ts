/** Removes trees whose names may be any bytes; symbolic links are not followed. */
import { lstatSync, readdirSync, rmdirSync, unlinkSync } from 'node:fs';
import { yielder } from '../yield.ts';
import { native } from './byte-paths.ts';

/**
 * Removes a tree, if it exists. The thread's other calls get their turns, by time and not by files: on a slow disk, or
 * beside much other work, 2000 files took seconds, for which the next pull waited to read its registry's hosts.toml.
 */
export async function removeTree(root: string): Promise<void> {
  const yieldThread = yielder();
  for (const _ of removing(root)) await yieldThread();
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
  // Each folder is visited twice: to remove its files, and, once its subfolders are gone, to remove it.
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
