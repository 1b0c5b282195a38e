import { readdirSync, renameSync, rmdirSync, unlinkSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { SluiceError } from '../../errors.ts';
import { unmount } from '../../sys/mount.ts';
import { mountsBelow } from '../../sys/mountinfo.ts';
import { removeCgroups } from '../cgroup.ts';
import { hiddenName } from './processes.ts';

export interface RemoveBundle {
  bundle: string;
  /** The container's folder for its FIFOs; a pod has none. */
  stateDir?: string;
  /** `linux.cgroupsPath` of the container's spec. */
  cgroupsPath?: string;
}

const TRIES = 20;
const PAUSE_MS = 50;

/**
 * Removes a bundle and the folder of the FIFOs, and the container's cgroups: a runtime that fails to create leaves
 * empty ones behind, crun in the v2 hierarchy of a hybrid set-up for example, which nobody removes that finds no
 * container. Bundle and folder are renamed first, so that a half-removed bundle is never taken for a complete one.
 * Idempotent. Waits up to a second for a busy mount (one that another mount namespace still has), then throws
 * NAMESPACE_FAILED; throws EBUSY for a cgroup whose processes do not end.
 */
export async function removeBundle({ bundle, stateDir, cgroupsPath }: RemoveBundle): Promise<void> {
  if (cgroupsPath !== undefined) await removeCgroups({ cgroupsPath });
  await removeWithMounts(bundle, ['rootfs']);
  if (stateDir !== undefined) await removeWithMounts(stateDir, []);
}

/**
 * Renames a folder, unmounts the named mount points in it, and removes it. An absent folder is fine. Throws
 * NAMESPACE_FAILED when it stays busy for a second.
 */
export async function removeWithMounts(path: string, mountPoints: string[]): Promise<void> {
  const hidden = hiddenName(path);
  for (let tries = 1; ; tries++) {
    try {
      // A folder with the hidden name may be left from an earlier attempt; it is removed first, since the name is
      // needed.
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
  // Something below is mounted, or a folder is not empty. Every mount inside must be gone before anything is removed
  // recursively: `rm` would delete what is mounted, which may be a user's data.
  for (const mountPoint of mountsBelow(dir)) unmount(mountPoint);
  const left = mountsBelow(dir);
  if (left.length > 0) throw Object.assign(new Error(`still mounted: ${left.join(', ')}`), { code: 'EBUSY' });
  await rm(dir, { recursive: true, force: true });
}

/** Removes a folder that contains only files and empty folders, as a bundle does. False when it contains more. */
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
