import { readdirSync, renameSync, rmdirSync, unlinkSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { SluiceError } from '../../errors.ts';
import { unmount } from '../../sys/mount.ts';
import { mountsBelow } from '../../sys/mountinfo.ts';
import { hiddenName } from './processes.ts';

const TRIES = 20;
const PAUSE_MS = 50;

/**
 * Removes a bundle and its work folder. They first get a hidden name, so that nobody takes half a bundle for a whole one.
 * Safe to repeat. A busy mount (seen in another mount namespace) is waited for, a second in all; then NAMESPACE_FAILED.
 */
export async function removeBundle({ bundle, workDir }: { bundle: string; workDir?: string }): Promise<void> {
  await removeTree(bundle, ['rootfs']);
  if (workDir !== undefined) await removeTree(workDir, []);
}

/** Hides a folder, detaches what is mounted on the named places in it, and removes it. A folder that is not there is fine. */
export async function removeTree(path: string, mountPoints: string[]): Promise<void> {
  const hidden = hiddenName(path);
  for (let tries = 1; ; tries++) {
    try {
      // A hidden one may be left from an attempt that was cut short; it goes first, since its name is needed.
      if (hide(path, hidden) === 'occupied') {
        await empty(hidden, mountPoints);
        continue;
      }
      await empty(hidden, mountPoints);
      return;
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException;
      const passes = code === 'EBUSY' || code === 'ENOTEMPTY';
      if (!passes || tries >= TRIES) {
        throw new SluiceError('NAMESPACE_FAILED', `${path} cannot be removed`, { cause });
      }
      await sleep(PAUSE_MS);
    }
  }
}

function hide(path: string, hidden: string): 'hidden' | 'occupied' {
  try {
    renameSync(path, hidden);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOTEMPTY' || code === 'EEXIST') return 'occupied';
    if (code !== 'ENOENT') throw error;
  }
  return 'hidden';
}

async function empty(dir: string, mountPoints: string[]): Promise<void> {
  for (const name of mountPoints) unmount(join(dir, name));
  if (removeFlat(dir)) return;
  // Something below is mounted or full. Nothing is removed recursively before every mount inside is gone: it would remove
  // what is mounted, which may be somebody's data.
  for (const mountPoint of mountsBelow(dir)) unmount(mountPoint);
  const left = mountsBelow(dir);
  if (left.length > 0) throw Object.assign(new Error(`still mounted: ${left.join(', ')}`), { code: 'EBUSY' });
  await rm(dir, { recursive: true, force: true });
}

/** Removes a folder of plain files and empty folders, which is what a bundle is. False when there is more to it. */
function removeFlat(dir: string): boolean {
  try {
    for (const entry of readdirSync(dir, { withFileTypes: true })) {
      const path = join(dir, entry.name);
      if (entry.isDirectory()) rmdirSync(path);
      else unlinkSync(path);
    }
    rmdirSync(dir);
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') return true;
    if (code === 'ENOTEMPTY' || code === 'EBUSY') return false;
    throw error;
  }
}
