import type { SandboxRow } from '../../../node/store/rows.ts';
import type { Node } from '../context.ts';
import type { PodLaunch } from '../launch.ts';

/** The record comes before everything it names; giving the name back comes after everything is gone. */
export const reserve = {
  run({ node, row }: PodLaunch): void {
    node.sandboxNames.take(row.name, row.id);
    node.store.sandboxes.put(row);
  },
  undo(row: SandboxRow, node: Node): void {
    node.store.sandboxes.delete(row.id);
    node.sandboxNames.release(row.name, row.id);
  },
};
