import type { SandboxRow } from '../../main/store/rows.ts';
import type { PodLaunch } from '../launch.ts';
import type { Node } from '../node.ts';

/** The pod's network namespace, pinned under its recorded path with `lo` up. Pods on the host network have none. */
export const netns = {
  skip: ({ row }: PodLaunch): boolean => row.netns === '',
  async run({ node, row }: PodLaunch): Promise<void> {
    await node.pools.net.call('createNetns', {
      path: row.netns,
      loopback: node.config.cni.loopback === 'builtin',
    });
  },
  async undo(row: SandboxRow, node: Node): Promise<void> {
    if (row.netns !== '') await node.pools.net.call('removeNetns', { path: row.netns });
  },
};
