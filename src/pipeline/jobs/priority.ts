/**
 * The order of waiting jobs: ends before beginnings, the node's own pods before users'. Cluster DNS that waits behind a hundred
 * applications after a reboot keeps all of them waiting (cilium 15428 and kin).
 */
export const PRIORITY = { teardown: 20, system: 10, normal: 0 } as const;

const SYSTEM_NAMESPACE = 'kube-system';

export function launchPriority(namespace: string): number {
  return namespace === SYSTEM_NAMESPACE ? PRIORITY.system : PRIORITY.normal;
}
