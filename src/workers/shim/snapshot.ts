import { chownSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { SluiceError } from '../../errors.ts';
import { removeTree } from './remove-bundle.ts';

/**
 * A writable snapshot: `fs` takes the container's changes (overlay's upperdir), `work` is overlay's own. `owner` is the host
 * id that root has in the pod's user namespace. Safe to repeat.
 */
export function prepareSnapshot({ dir, owner }: { dir: string; owner?: { uid: number; gid: number } }): void {
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    mkdirSync(join(dir, 'work'), { recursive: true, mode: 0o711 });
    mkdirSync(join(dir, 'fs'), { recursive: true, mode: 0o755 });
    if (owner) chownSync(join(dir, 'fs'), owner.uid, owner.gid);
  } catch (cause) {
    throw new SluiceError('NAMESPACE_FAILED', `the snapshot ${dir} cannot be made`, { cause });
  }
}

/** Removes a writable snapshot, however much a container wrote into it, without holding the thread. Safe to repeat. */
export async function removeSnapshot({ dir }: { dir: string }): Promise<void> {
  await removeTree(dir, []);
}
