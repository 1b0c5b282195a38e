import { createHash, randomBytes } from 'node:crypto';
import { basename, join, resolve } from 'node:path';

/**
 * The daemon's id: eight hex digits, derived from its root folder. Two daemons never share a root folder, so a bridge
 * or a pinned namespace with these digits in its name belongs to this daemon, even when the store is lost.
 */
export function daemonId(root: string): string {
  return createHash('sha256').update(resolve(root)).digest('hex').slice(0, 8);
}

/**
 * A new path for a pod's network namespace. The name is `cni-` and a UUID, as with other runtimes, so that tools find
 * it; the UUID's first group is the daemon's id.
 */
export function netnsPath(netnsDir: string, daemon: string): string {
  const hex = randomBytes(12).toString('hex');
  const groups = [daemon, hex.slice(0, 4), hex.slice(4, 8), hex.slice(8, 12), hex.slice(12)];
  return join(netnsDir, `cni-${groups.join('-')}`);
}

/** True when the daemon has created the namespace at this path. */
export function isOwnNetns(path: string, daemon: string): boolean {
  return basename(path).startsWith(`cni-${daemon}-`);
}
