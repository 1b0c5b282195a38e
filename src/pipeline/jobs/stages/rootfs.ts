import { rootOf } from '../../../node/oci/pod-userns.ts';
import type { SandboxRow } from '../../../node/store/rows.ts';
import type { Node } from '../context.ts';
import type { PodLaunch } from '../launch.ts';

/** The writable layer on top of the image's own. */
export const rootfs = {
  async run({ node, row }: PodLaunch): Promise<void> {
    await node.pools.shim.call('prepareSnapshot', { dir: row.snapshot, owner: rootOf(row.config) });
  },
  async undo(row: SandboxRow, node: Node): Promise<void> {
    await node.pools.shim.call('removeSnapshot', { dir: row.snapshot });
  },
};
