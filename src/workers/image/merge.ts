/** Lays unpacked layers on a tree that is no overlay: for snapshots of file systems without overlayfs. */
import { linkSync, lstatSync, readdirSync, readlinkSync, type Stats, symlinkSync, unlinkSync } from 'node:fs';
import { deviceParts, makeNode } from '../../sys/attributes.ts';
import { yielder } from '../yield.ts';
import { native } from './byte-paths.ts';
import { copyAttributes, copyFile } from './copy-up.ts';
import { isOpaque, isWhiteout, OPAQUE_MARK, WHITEOUT } from './opaque.ts';
import { look, makeFolder } from './root.ts';
import { removeTree } from './tree.ts';

/** What link(2) answers where a file has to be copied: another file system, too many links, links not allowed. */
const NO_LINK = new Set(['EXDEV', 'EMLINK', 'EPERM', 'ENOTSUP', 'EOPNOTSUPP']);

interface Step {
  from: string;
  to: string;
  /** The content is done; the folder's own attributes come last, since its times change with the content. */
  filled: boolean;
}

/**
 * Lays the layer in the folder `from` on the tree `to`: first goes what the layer hides, then comes what it brings, as
 * hard links where both are on one file system, else as copies. Paths have one byte per character. Yields to the
 * thread's other calls.
 */
export async function mergeLayer(from: string, to: string): Promise<void> {
  const yieldThread = yielder();
  const todo: Step[] = [{ from, to, filled: false }];
  for (let step = todo.at(-1); step; step = todo.at(-1)) {
    await yieldThread();
    if (step.filled) {
      copyAttributes(step.from, step.to);
      todo.pop();
      continue;
    }
    step.filled = true;
    const names = namesIn(step.from);
    await hide(step, names);
    for (const name of names) {
      if (name.startsWith(WHITEOUT)) continue;
      const source = `${step.from}/${name}`;
      const target = `${step.to}/${name}`;
      const stats = lstatSync(native(source));
      if (isWhiteout(stats)) continue;
      if (!stats.isDirectory()) {
        await bring(source, target, stats);
        await yieldThread();
        continue;
      }
      await makeRoomForFolder(target);
      todo.push({ from: source, to: target, filled: false });
    }
  }
}

const namesIn = (folder: string): string[] => readdirSync(native(folder), { encoding: 'latin1' });

async function hide({ from, to }: Step, names: readonly string[]): Promise<void> {
  if (isOpaque(from)) for (const name of namesIn(to)) await removeTree(`${to}/${name}`);
  for (const name of names) {
    if (name === OPAQUE_MARK) continue;
    if (name.startsWith(WHITEOUT)) await removeTree(`${to}/${name.slice(WHITEOUT.length)}`);
    else if (look(`${to}/${name}`) && isWhiteout(lstatSync(native(`${from}/${name}`))))
      await removeTree(`${to}/${name}`);
  }
}

async function makeRoomForFolder(path: string): Promise<void> {
  const there = look(path);
  if (there?.isDirectory()) return;
  if (there) unlinkSync(native(path));
  makeFolder(path);
}

async function bring(source: string, target: string, stats: Stats): Promise<void> {
  if (look(target)) await removeTree(target);
  try {
    linkSync(native(source), native(target));
    return;
  } catch (error) {
    if (!NO_LINK.has((error as NodeJS.ErrnoException).code ?? '')) throw error;
  }
  if (stats.isFile()) copyFile(source, target);
  else if (stats.isSymbolicLink()) {
    symlinkSync(readlinkSync(native(source), 'buffer'), native(target));
    copyAttributes(source, target);
  } else if (stats.isCharacterDevice() || stats.isBlockDevice() || stats.isFIFO()) {
    const { major, minor } = deviceParts(stats.rdev);
    makeNode(native(target), stats.mode, major, minor);
    copyAttributes(source, target);
  }
}
