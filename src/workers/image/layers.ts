import { readdirSync, renameSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { measureTree, type Usage } from '../measure-tree.ts';
import { temporaryBeside } from './fetch-layer.ts';
import { toBytes } from './names.ts';
import { inheritFromTrees } from './root.ts';
import { removeTree } from './tree.ts';

/**
 * Removes a layer's folder and what crashes left of it (`DIR.tmp-…`), as far as they exist. The folder is renamed first, so that a
 * crash does not leave half a layer that looks like a whole one.
 */
export async function removeLayer({ dir }: { dir: string }): Promise<void> {
  try {
    renameSync(dir, temporaryBeside(dir));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
  const leftovers = `${basename(dir)}.tmp-`;
  for (const name of existing(dirname(dir))) {
    if (name.startsWith(leftovers)) await removeTree(toBytes(join(dirname(dir), name)));
  }
}

function existing(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

/** The disk use of a layer's folder (or any other). */
export function measure({ dir }: { dir: string }): Promise<Usage> {
  return measureTree(dir);
}

/**
 * Copies owner and mode to the folders that fetchLayer returned as `implied`, from the topmost layer below that has each of them.
 * When several layers of an image have such folders, the lower ones come first.
 */
export function inheritAttributes({
  dir,
  folders,
  parentDirs,
}: {
  dir: string;
  folders: string[];
  parentDirs: string[];
}): void {
  const trees = parentDirs.map(toBytes);
  for (const folder of folders) inheritFromTrees(`${toBytes(dir)}/fs/${folder}`, folder, trees);
}
