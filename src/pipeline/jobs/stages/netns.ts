import { podNamespaceOptions } from '../../../node/oci/namespaces.ts';
import { userNamespace } from '../../../node/oci/userns.ts';
import type { SandboxRow } from '../../../node/store/rows.ts';
import type { Node } from '../context.ts';
import type { PodLaunch } from '../launch.ts';

/**
 * The pod's network namespace, pinned under its recorded path with `lo` up; inside the pod's own user namespace, pinned beside it,
 * when it has one. Pods on the host network have none.
 */
export const netns = {
  skip: ({ row }: PodLaunch): boolean => row.netns === '',
  async run({ node, row }: PodLaunch): Promise<void> {
    const userns = userNamespace(podNamespaceOptions(row.config));
    await node.pools.net.call('createNetns', {
      path: row.netns,
      loopback: node.config.cni.loopback === 'builtin',
      userns: userns && row.userns ? { path: row.userns, ...userns } : undefined,
    });
  },
  async undo(row: SandboxRow, node: Node): Promise<void> {
    if (row.netns !== '') await node.pools.net.call('removeNetns', { path: row.netns, userns: row.userns });
  },
};
