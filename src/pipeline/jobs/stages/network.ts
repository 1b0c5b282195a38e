import { SluiceError } from '../../../errors.ts';
import { addresses } from '../../../node/network/addresses.ts';
import type { SandboxRow } from '../../../node/store/rows.ts';
import type { Node } from '../context.ts';
import type { PodLaunch } from '../launch.ts';

/** CNI. The row carries the configuration that ADD is called with, so DEL is called alike whatever the folder says by then. */
export const network = {
  skip: ({ row }: PodLaunch): boolean => row.network === undefined,
  async run({ node, row }: PodLaunch): Promise<void> {
    const { network: attachment } = row;
    if (!attachment) return;
    row.result = await node.network.add(attachment);
    row.addresses = addresses(row.result, attachment.ifName);
    if (row.addresses.length === 0) {
      const { name } = attachment.network;
      throw new SluiceError('CNI_FAILED', `network ${name} gave the pod no address on ${attachment.ifName}`);
    }
  },
  async undo(row: SandboxRow, node: Node): Promise<void> {
    if (!row.network) return;
    await node.network.del(row.network);
    row.network = undefined;
    node.store.sandboxes.put(row);
  },
};
