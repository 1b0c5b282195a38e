/** Where on the disk a layer is unpacked: making a file is several times as expensive in some places as in others. */
import { chmodSync, closeSync, lstatSync, mkdirSync, openSync, rmSync, unlinkSync } from 'node:fs';
import { temporaryBeside } from './temporary.ts';

/** Inodes of a flex group of ext4, as mke2fs makes it: 16 groups of 8192. */
const FLEX_GROUP = 16 * 8192;
const MAX_TRIES = 8;
/**
 * Milliseconds for a new file: 0.006 to 0.009 where nothing was removed lately, and 0.06 more for each thousand inodes
 * that were, as measured.
 */
const QUICK_MS = 0.012;
const PROBES = 3;

export interface UnfinishedOptions {
  /** Inode numbers of folders that are being removed, or were lately: their neighbourhood is no good. */
  avoid?: readonly number[];
  /** Milliseconds that it takes to make a file in the folder; for tests. */
  probe?: (folder: string) => number;
}

/**
 * Makes the folder for the unfinished layer of `dir`, with an empty `fs` in it, and returns its path.
 *
 * ext4 chooses its block group by a hash of the name among those with the fewest folders. Without a journal, it steps
 * over all inodes of the group that were freed in the last minutes for each new file (src/node/images/layer-folders.ts
 * says more), whoever has removed them: another runtime, or this daemon before it was started again. So a file is made
 * for a trial, and where that takes long another name is tried; the folders before stay meanwhile, since the group
 * would be chosen again without them.
 */
export function makeUnfinished(dir: string, { avoid = [], probe = quickestFile }: UnfinishedOptions = {}): string {
  const avoided = new Set(avoid.map(flexGroup));
  const made: { folder: string; ms: number }[] = [];
  let taken: string | undefined;
  try {
    while (made.length < MAX_TRIES) {
      const one = { folder: temporaryBeside(dir), ms: Number.POSITIVE_INFINITY };
      mkdirSync(one.folder, { mode: 0o700 });
      made.push(one);
      mkdirSync(`${one.folder}/fs`, { mode: 0o755 });
      if (!avoided.has(flexGroup(lstatSync(one.folder).ino))) one.ms = probe(`${one.folder}/fs`);
      if (one.ms <= QUICK_MS) break;
    }
    const best = made.reduce((least, one) => (one.ms < least.ms ? one : least));
    chmodSync(`${best.folder}/fs`, 0o755); // whatever the umask is
    taken = best.folder;
    return taken;
  } finally {
    for (const { folder } of made) if (folder !== taken) rmSync(folder, { recursive: true, force: true });
  }
}

const flexGroup = (ino: number) => Math.floor((ino - 1) / FLEX_GROUP);

/** The least of a few, since another process may come in between. */
function quickestFile(folder: string): number {
  const path = `${folder}/probe`;
  let least = Number.POSITIVE_INFINITY;
  for (let made = 0; made < PROBES && least > QUICK_MS; made++) {
    const began = performance.now();
    const fd = openSync(path, 'wx', 0o600);
    least = Math.min(least, performance.now() - began);
    closeSync(fd);
    unlinkSync(path);
  }
  return least;
}
