/** Who may enter what the daemon makes: its file mode mask and its top folders. */
import { chmodSync, existsSync, mkdirSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { SluiceError } from '../errors.ts';
import type { Config } from '../node/config/config.ts';
import type { Log } from '../node/observe/log.ts';
import { usernsBundles } from '../pipeline/jobs/bundle-path.ts';
import { spreadSubfolders } from '../sys/inode-flags.ts';

/** Name of the lock file in root and in state, by which a folder is known to be Sluice's. */
export const LOCK_FILE = 'sluiced.lock';

/**
 * Sets the umask of the whole process, once, before anything is made: what a container's user reads (the root of its
 * file system, resolv.conf) must not depend on the umask that the daemon was started with, and sockets must not be
 * writable for others. Runtimes and containers inherit it.
 */
export function setUmask(): void {
  process.umask(0o022);
}

/**
 * Makes the daemon's folders, and closes those that an earlier version left open. Root and state are for root alone:
 * below them lie containers' environments, their shm, and setuid programs of images that any user of the host could
 * otherwise run (CVE-2021-41103). The bundles of pods with their own user namespace are apart, in a folder that others
 * may pass through but not list.
 *
 * Throws CONFIG_INVALID for a folder that others use (/run, say): it must not be closed.
 */
export function makeFolders({ root, state }: Pick<Config, 'root' | 'state'>): void {
  for (const folder of [root, state]) {
    if (mkdirSync(folder, { recursive: true, mode: 0o700 }) === undefined) requireOwn(folder);
    setMode(folder, 0o700);
  }
  const bundles = usernsBundles(state);
  mkdirSync(bundles, { recursive: true, mode: 0o711 });
  setMode(bundles, 0o711);
}

/** In root: each layer, pod and container has a folder of its own in one of these, and they come and go. */
const SPREAD = ['layers', 'sandboxes', 'snapshots'];

/**
 * Makes the folders of layers, pods and containers, and gives each of their subfolders a block group of its own on
 * ext4. Without a journal, ext4 does not reuse an inode that was freed in the last minutes (recently_deleted() in
 * fs/ext4/ialloc.c) and steps over all such inodes of the group for each new file. On a node whose pods come and go
 * that was a seventh of the machine's CPU for a pod with a container, and unpacking beside layers that were just
 * removed took seven times as long (2.2 s against 0.3 s for 6000 files). With a journal it makes no difference.
 *
 * Never throws: what cannot be spread is slower, and the log says so.
 */
export function spreadFolders({ root }: Pick<Config, 'root'>, log: Log): void {
  for (const name of SPREAD) {
    const folder = join(root, name);
    try {
      mkdirSync(folder, { recursive: true, mode: 0o700 });
      if (!spreadSubfolders(folder)) log.debug({ folder }, 'the file system does not spread folders');
    } catch (err) {
      log.warn({ folder, err }, 'it cannot be spread over block groups: launches and pulls may be slower');
    }
  }
}

/** The daemon starts on a read-only file system too, where a chmod fails even if it would change nothing. */
function setMode(folder: string, mode: number): void {
  if ((statSync(folder).mode & 0o777) !== mode) chmodSync(folder, mode);
}

/**
 * A socket that systemd has bound there, or the lost+found of a file system, is fine in a folder that no daemon has
 * used yet.
 */
function requireOwn(folder: string): void {
  if (existsSync(join(folder, LOCK_FILE))) return;
  const others = readdirSync(folder, { withFileTypes: true }).filter(
    (entry) => entry.isDirectory() && entry.name !== 'lost+found',
  );
  if (others.length === 0) return;
  const names = others.slice(0, 3).map(({ name }) => name);
  throw new SluiceError(
    'CONFIG_INVALID',
    `${folder} is used by others (it contains ${names.join(', ')}): root and state must be folders that Sluice has for itself`,
  );
}
