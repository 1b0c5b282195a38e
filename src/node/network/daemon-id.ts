import { createHash, randomBytes } from 'node:crypto';
import { basename, join, resolve } from 'node:path';

/**
 * Eight hex digits that stand for the daemon whose root folder this is. Two daemons never share a root folder, so what carries
 * these digits (a bridge, a pinned namespace) is known to be ours even when every record is lost.
 */
export function daemonId(root: string): string {
  return createHash('sha256').update(resolve(root)).digest('hex').slice(0, 8);
}

/**
 * A new path for a pod's namespace: `cni-` and a UUID as everywhere, so that tools which look for such names find it, with the
 * daemon's id as the first group.
 */
export function netnsPath(netnsDir: string, daemon: string): string {
  const hex = randomBytes(12).toString('hex');
  const groups = [daemon, hex.slice(0, 4), hex.slice(4, 8), hex.slice(8, 12), hex.slice(12)];
  return join(netnsDir, `cni-${groups.join('-')}`);
}

/** Was this namespace made by the daemon? */
export function isOwnNetns(path: string, daemon: string): boolean {
  return basename(path).startsWith(`cni-${daemon}-`);
}
