import type { PodSandboxConfig } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import type { SandboxRow } from '../store/sandbox.ts';
import type { RuntimeFeatures } from './host.ts';
import { podNamespaceOptions } from './namespaces.ts';
import type { IdMapping } from './types.ts';
import { userNamespace } from './userns.ts';

/** Host ids of the root of a pod's own user namespace; undefined on the host's. */
export function usernsRootOwner(config: PodSandboxConfig): { uid: number; gid: number } | undefined {
  const userns = userNamespace(podNamespaceOptions(config));
  const host = (mappings: IdMapping[]) => mappings.find(({ containerID }) => containerID === 0)?.hostID ?? 0;
  return userns && { uid: host(userns.uids), gid: host(userns.gids) };
}

/** Path of the user namespace of a running pod; undefined on the host's. One on the host's network has its own by its pause process alone. */
export function usernsPath(sandbox: SandboxRow): string | undefined {
  if (!userNamespace(podNamespaceOptions(sandbox.config))) return undefined;
  return sandbox.userns ?? `/proc/${sandbox.pid}/ns/user`;
}

/**
 * The mounts of a rootfs as a pod's user namespace sees them: the image's files keep their owners on the disk, and the shim maps
 * them for this mount (`uidmap=`, `gidmap=`; shims from 2.0 on, kernels from 5.19 on).
 */
export function idMapped<M extends { type: string; options: string[] }>(mounts: M[], config: PodSandboxConfig): M[] {
  const userns = userNamespace(podNamespaceOptions(config));
  if (!userns) return mounts;
  const option = (name: string, mappings: IdMapping[]) =>
    `${name}=${mappings.map(({ containerID, hostID, size }) => `${containerID}:${hostID}:${size}`).join(',')}`;
  const maps = [option('uidmap', userns.uids), option('gidmap', userns.gids)];
  return mounts.map((mount) => (mount.type === 'overlay' ? { ...mount, options: [...mount.options, ...maps] } : mount));
}

/** Throws INVALID_REQUEST where the pod wants a user namespace of its own and its runtime cannot map mounts into one. */
export function checkUserNamespace(config: PodSandboxConfig, runtime: string, features: RuntimeFeatures): void {
  if (!userNamespace(podNamespaceOptions(config)) || features.idmap) return;
  throw new SluiceError(
    'INVALID_REQUEST',
    `the runtime "${runtime}" has no user namespaces (they need idmapped mounts: runc from 1.2 on, and a shim of containerd 2.0 or newer)`,
  );
}
