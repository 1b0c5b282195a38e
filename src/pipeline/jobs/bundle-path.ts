import { join, resolve } from 'node:path';
import type { PodSandboxConfig } from '../../../proto/gen/cri.ts';
import { podNamespaceOptions } from '../../node/oci/namespaces.ts';
import { userNamespace } from '../../node/oci/userns.ts';

/**
 * Folder of the bundles of pods with their own user namespace: beside the state folder, because the runtime resolves
 * the path of their root file system as a user of the pod's namespace, and may not enter the state folder.
 */
export const usernsBundles = (state: string): string => `${resolve(state)}-userns`;

/**
 * The bundle of a pod or of a container in it. The bundle of a pod with its own user namespace gives search permission
 * to the host group of that namespace's root (makeBundle), and to nobody else.
 */
export function bundlePath(state: string, id: string, pod: PodSandboxConfig): string {
  return userNamespace(podNamespaceOptions(pod)) ? join(usernsBundles(state), id) : join(state, 'bundles', id);
}
