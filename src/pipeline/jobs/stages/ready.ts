import { nowNs } from '../../../clock.ts';
import { filled, type PodLaunch } from '../launch.ts';

/** The pod is what it was asked to be: the record says so, its end is watched, the world is told. */
export const ready = {
  run({ node, row, shim }: PodLaunch): void {
    row.state = 'ready';
    row.createdAt = nowNs();
    node.store.sandboxes.put(row);
    node.monitor.watchSandbox(row, filled(shim, 'shim'));
    node.events.publish('created', row.id, row.id);
    node.events.publish('started', row.id, row.id);
  },
};
