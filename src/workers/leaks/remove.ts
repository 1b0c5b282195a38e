import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { SluiceError } from '../../errors.ts';
import { unmount } from '../../sys/mount.ts';
import { unpinNamespace } from '../../sys/netns.ts';
import { killPinned } from '../../sys/pidfd.ts';
import { removeCgroupFolder } from '../cgroup.ts';
import { cniDel } from '../net/del.ts';
import { removeWithMounts } from '../shim/remove-bundle.ts';
import type { Resource } from './find.ts';

export interface RemoveOptions {
  cni: { binDirs: string[]; cacheDir: string; timeoutMs: number };
}

/** The order in which leaks go: what uses a thing before the thing. */
export const REMOVAL_ORDER = ['shim', 'cgroup', 'address', 'netns', 'mount', 'bundle', 'snapshot'] as const;

const END_MS = 2000;
const PAUSE_MS = 20;

/** Takes a leak away. The caller has made sure that no row names it. Idempotent. Throws when it stays. */
export async function removeResource(leak: Resource, { cni }: RemoveOptions): Promise<void> {
  switch (leak.kind) {
    case 'shim':
      return endShim(leak);
    case 'cgroup':
      return removeCgroupFolder(leak.path);
    case 'address':
      await cniDel({ ...cni, attachment: leak.attachment });
      return;
    case 'netns':
      return unpinNamespace(leak.path);
    case 'mount':
      return unmount(leak.path);
    case 'bundle':
    case 'snapshot':
      // Never recursively into a mount, which may show a user's data.
      return removeWithMounts(leak.path.replace(/\/\.([^/]+)$/, '/$1'), ['rootfs', 'shm']);
  }
}

async function endShim({ pid, command, owner }: Resource & { kind: 'shim' }): Promise<void> {
  const still = () => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0').slice(0, -1).join(' ') === command;
    } catch {
      return false; // it has ended
    }
  };
  killPinned(pid, still);
  for (let waited = 0; still(); waited += PAUSE_MS) {
    if (waited > END_MS) throw new SluiceError('SHIM_FAILED', `the shim ${pid} of ${owner} does not end`);
    await sleep(PAUSE_MS);
  }
}
