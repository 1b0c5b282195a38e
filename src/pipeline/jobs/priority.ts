/**
 * The order of waiting jobs: ends before beginnings, the node's own pods before users'. Cluster DNS that waits behind a
 * hundred applications after a reboot keeps all of them waiting (cilium 15428 and kin).
 */
export const PRIORITY = { teardown: 20, system: 10, normal: 0 } as const;

const SYSTEM_NAMESPACE = 'kube-system';

/** The priority of a pod's launch, and of a pull for it, by the pod's namespace (undefined where it is not known). */
export function launchPriority(namespace: string | undefined): number {
  return namespace === SYSTEM_NAMESPACE ? PRIORITY.system : PRIORITY.normal;
}
