import { chownSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { SluiceError } from '../../errors.ts';
import { removeWithMounts } from './remove-bundle.ts';

/**
 * Makes a writable snapshot: `fs` is overlayfs's upperdir with the container's changes, `work` its workdir. `owner` is
 * the host id of root in the pod's user namespace. Idempotent. Throws NAMESPACE_FAILED (or DISK_FULL).
 */
export function prepareSnapshot({ dir, owner }: { dir: string; owner?: { uid: number; gid: number } }): void {
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    mkdirSync(join(dir, 'work'), { recursive: true, mode: 0o700 });
    mkdirSync(join(dir, 'fs'), { recursive: true, mode: 0o755 });
    if (owner) chownSync(join(dir, 'fs'), owner.uid, owner.gid);
  } catch (cause) {
    throw new SluiceError('NAMESPACE_FAILED', `the snapshot ${dir} cannot be made`, { cause });
  }
}

/** Removes a writable snapshot of any size without blocking the thread. Idempotent. */
export async function removeSnapshot({ dir }: { dir: string }): Promise<void> {
  await removeWithMounts(dir, []);
}
