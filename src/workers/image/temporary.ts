import { renameSync } from 'node:fs';
import { toBytes } from './byte-paths.ts';
import { removeTree } from './tree.ts';

/** A name beside `dir` that marks its content as unfinished, after a crash too. */
export function temporaryBeside(dir: string): string {
  return `${dir}.tmp-${crypto.randomUUID().slice(0, 8)}`;
}

/** Renames a finished layer to its final name. When another call has made the same layer, the first one stays. */
export async function settle(temporary: string, dir: string): Promise<void> {
  try {
    renameSync(temporary, dir);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOTEMPTY' && code !== 'EEXIST') throw error;
    await removeTree(toBytes(temporary));
  }
}
