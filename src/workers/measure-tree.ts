import { lstatSync, readdirSync, statSync } from 'node:fs';
import { yielder } from './yield.ts';

export interface Usage {
  /** Allocated blocks, folders included; a file with several hard links counts once. */
  bytes: number;
  inodes: number;
}

const SLASH = Buffer.from('/');

/**
 * What a folder and all below it occupy, as `du -x` counts: neither symbolic links nor other file systems are entered,
 * but `root` itself may be a link. Names may be any bytes. The walk yields to the thread's other calls; what vanishes
 * during it is left out. With `linked: false`, files with other names are left out too: somebody else counts them.
 * Throws ENOENT when `root` is absent.
 */
export async function measureTree(root: string, { linked: withLinked = true } = {}): Promise<Usage> {
  const top = statSync(root);
  const yieldThread = yielder();
  const total: Usage = { bytes: top.blocks * 512, inodes: 1 };
  const linked = new Set<number>();
  const folders = top.isDirectory() ? [Buffer.from(root)] : [];
  for (let folder = folders.pop(); folder !== undefined; folder = folders.pop()) {
    for (const name of list(folder)) {
      const path = Buffer.concat([folder, SLASH, name]);
      const stats = lstatSync(path, { throwIfNoEntry: false });
      await yieldThread();
      if (!stats || stats.dev !== top.dev) continue;
      if (stats.isDirectory()) folders.push(path);
      else if (stats.nlink > 1) {
        if (!withLinked || linked.has(stats.ino)) continue;
        linked.add(stats.ino);
      }
      total.bytes += stats.blocks * 512;
      total.inodes++;
    }
  }
  return total;
}

function list(folder: Buffer): Buffer[] {
  try {
    return readdirSync(folder, { encoding: 'buffer' });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return [];
    throw error;
  }
}
