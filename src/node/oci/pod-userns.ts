import type { PodSandboxConfig } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import type { SandboxRow } from '../store/sandbox.ts';
import type { RuntimeFeatures } from './host.ts';
import { podNamespaceOptions } from './namespaces.ts';
import type { IdMapping } from './types.ts';
import { userNamespace } from './userns.ts';

/** Host ids of root in the pod's own user namespace; undefined in the host's. */
export function usernsRootOwner(config: PodSandboxConfig): { uid: number; gid: number } | undefined {
  const userns = userNamespace(podNamespaceOptions(config));
  const host = (mappings: IdMapping[]) => mappings.find(({ containerID }) => containerID === 0)?.hostID ?? 0;
  return userns && { uid: host(userns.uids), gid: host(userns.gids) };
}

/**
 * Path of the user namespace of a running pod; undefined in the host's. A pod on the host's network has no pinned user
 * namespace, only that of its pause process.
 */
export function usernsPath(sandbox: SandboxRow): string | undefined {
  if (!userNamespace(podNamespaceOptions(sandbox.config))) return undefined;
  return sandbox.userns ?? `/proc/${sandbox.pid}/ns/user`;
}

/**
 * Adds the options `uidmap=` and `gidmap=` to overlay and bind mounts of a pod with its own user namespace, so that the
 * shim makes idmapped mounts of the layers: files keep their owners on the disk. Needs a shim of containerd 2.0 or
 * newer and Linux 5.19.
 */
export function idMapped<M extends { type: string; options: string[] }>(mounts: M[], config: PodSandboxConfig): M[] {
  const userns = userNamespace(podNamespaceOptions(config));
  if (!userns) return mounts;
  const option = (name: string, mappings: IdMapping[]) =>
    `${name}=${mappings.map(({ containerID, hostID, size }) => `${containerID}:${hostID}:${size}`).join(',')}`;
  const maps = [option('uidmap', userns.uids), option('gidmap', userns.gids)];
  return mounts.map((mount) =>
    mount.type === 'overlay' || mount.type === 'bind' ? { ...mount, options: [...mount.options, ...maps] } : mount,
  );
}

/** Throws INVALID_REQUEST when the pod requests its own user namespace and its runtime has no idmapped mounts. */
export function checkUserNamespace(config: PodSandboxConfig, runtime: string, features: RuntimeFeatures): void {
  if (!userNamespace(podNamespaceOptions(config)) || features.idmap) return;
  throw new SluiceError(
    'INVALID_REQUEST',
    `the runtime "${runtime}" has no user namespaces (they need idmapped mounts: runc 1.2 or newer and a shim of containerd 2.0 or newer)`,
  );
}
