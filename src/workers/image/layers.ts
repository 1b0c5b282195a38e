import { renameSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { namesInSync } from '../../sys/folder.ts';
import { measureTree, type Usage } from '../measure-tree.ts';
import { toBytes } from './byte-paths.ts';
import { copyUp } from './copy-up.ts';
import type { FetchedLayer } from './fetch-layer.ts';
import { inheritFromTrees } from './root.ts';
import { temporaryBeside } from './temporary.ts';
import { removeTree } from './tree.ts';

/**
 * Removes a layer's folder and what crashes left of it (`DIR.tmp-…`), as far as they exist. The folder is renamed
 * first, so that a crash does not leave half a layer that looks like a whole one.
 */
export async function removeLayer({ dir }: { dir: string }): Promise<void> {
  try {
    renameSync(dir, temporaryBeside(dir));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
  const leftovers = `${basename(dir)}.tmp-`;
  for (const name of namesInSync(dirname(dir))) {
    if (name.startsWith(leftovers)) await removeTree(toBytes(join(dirname(dir), name)));
  }
}

/** The disk use of a layer's folder (or any other). */
export function measure({ dir }: { dir: string }): Promise<Usage> {
  return measureTree(dir);
}

/**
 * Copies owner and mode to the folders that fetchLayer returned as `implied`, from the topmost layer below that has
 * each of them. Then copies up the files of layers below that hard links of this layer lead to. When several layers of
 * an image need this, the lower ones come first. Throws IMAGE_INVALID when no layer has such a file.
 */
export function inheritAttributes({
  dir,
  folders,
  links = [],
  parentDirs,
}: {
  dir: string;
  folders: string[];
  links?: FetchedLayer['lowerLinks'];
  parentDirs: string[];
}): void {
  const trees = parentDirs.map(toBytes);
  copyUp(`${toBytes(dir)}/fs`, links, trees);
  for (const folder of folders) inheritFromTrees(`${toBytes(dir)}/fs/${folder}`, folder, trees);
}
