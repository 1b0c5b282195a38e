import { chmodSync, lchownSync, lstatSync, type Stats } from 'node:fs';
import { setTimes } from '../sys/attributes.ts';

export interface InheritFolders {
  /** Where the layer is. */
  fs: string;
  /** Folders that it needs and does not describe: latin1 paths. */
  implied: string[];
  /** The layers below, the topmost first. */
  lowers: string[];
}

/**
 * Gives folders that a layer has only as parts of other names what the layers below say of them. Overlayfs shows the topmost
 * layer's attributes, so `/tmp` would lose its sticky bit because a layer put a file there.
 */
export function inheritFolders({ fs, implied, lowers }: InheritFolders): void {
  for (const path of implied) {
    const lower = below(lowers, path);
    if (!lower) continue;
    const target = inFolder(fs, path);
    lchownSync(target, lower.uid, lower.gid);
    chmodSync(target, lower.mode & 0o7777);
    setTimes(target, timeSpec(lower.atimeMs), timeSpec(lower.mtimeMs));
  }
}

const inFolder = (folder: string, path: string) =>
  Buffer.concat([Buffer.from(`${folder}/`), Buffer.from(path, 'latin1')]);

function below(lowers: string[], path: string): Stats | undefined {
  for (const lower of lowers) {
    const stat = look(inFolder(lower, path));
    if (stat) return stat.isDirectory() ? stat : undefined;
  }
  return undefined;
}

function look(path: Buffer): Stats | undefined {
  try {
    return lstatSync(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined; // ENOTDIR: a parent is hidden there
    throw error;
  }
}

function timeSpec(ms: number): { seconds: number; nanoseconds: number } {
  const seconds = Math.floor(ms / 1000);
  return { seconds, nanoseconds: Math.min(999_999_999, Math.round((ms - seconds * 1000) * 1e6)) };
}
