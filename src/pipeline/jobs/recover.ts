import { explain } from '../../errors.ts';
import type { SandboxRow } from '../../node/store/rows.ts';
import type { Node } from './context.ts';

/** Milliseconds that one shim gets to answer when the daemon starts. */
const REATTACH_MS = 2000;
const LOOK_AGAIN_MS = 5000;

export interface Recovered {
  /** Pods found running. */
  alive: number;
  /** Pods whose shim is gone: NotReady until kubelet removes them. */
  dead: number;
  /** Neither: looked at again in the background, and left alone until then. */
  unknown: number;
  /** Half-made or half-removed: being cleaned up in the background. */
  undone: number;
}

/**
 * Finds the pods of an earlier daemon again, all at once and two seconds each at most. What it had half made, or half removed,
 * is undone by the same functions that undo a failed launch. Nothing here keeps the daemon from starting.
 */
export async function recover(node: Node): Promise<Recovered> {
  const recovered: Recovered = { alive: 0, dead: 0, unknown: 0, undone: 0 };
  const rows = [...node.store.sandboxes.values()];
  for (const row of rows) if (!halfWay(row)) node.sandboxNames.take(row.name, row.id);
  await node.containers.recoverNames();
  await Promise.all(
    rows.map(async (row) => {
      if (halfWay(row)) {
        node.pods.cleanUp(row, row.cleanup?.failed ?? `the daemon ended while the pod was ${row.state}`, 0);
        recovered.undone++;
      } else if (row.state !== 'stopped') recovered[await find(node, row)]++;
      else await node.containers.recover(row.id, undefined);
    }),
  );
  return recovered;
}

/**
 * Gives back what carries this daemon's mark in the network but stands in no record: there should be none, since records come
 * first, so each one counts as a leak. A failure is logged, and the next start tries again.
 */
export async function sweepNetwork(node: Node): Promise<void> {
  const rows = () => [...node.store.sandboxes.values()];
  try {
    const strays = await node.network.strays({
      hasSandbox: (id) => node.store.sandboxes.get(id) !== undefined,
      hasNetns: (path) => rows().some((row) => row.netns === path || row.userns === path),
    });
    for (const attachment of strays.attachments) {
      await node.network.del(attachment);
      node.metrics.inc('leaks', { kind: 'address' });
      node.log.warn({ sandbox: attachment.containerId, network: attachment.network.name }, 'gave back a stray address');
    }
    for (const path of strays.netns) {
      await node.pools.net.call('removeNetns', { path });
      node.metrics.inc('leaks', { kind: 'netns' });
      node.log.warn({ netns: path }, 'removed a stray network namespace');
    }
  } catch (err) {
    node.log.error({ err }, 'looking for strays in the network failed');
  }
}

const halfWay = (row: SandboxRow) => row.state === 'creating' || row.state === 'removing';

async function find(node: Node, row: SandboxRow): Promise<'alive' | 'dead' | 'unknown'> {
  const found = row.shim ? await node.shims.reattach(row.id, row.shim, REATTACH_MS) : ({ state: 'dead' } as const);
  if (found.state === 'alive') {
    node.monitor.watchSandbox(row, found.shim);
    await node.containers.recover(row.id, found.shim);
  } else if (found.state === 'dead') {
    if (row.state === 'ready') {
      row.state = 'notready';
      node.store.sandboxes.put(row);
      node.log.warn({ sandbox: row.id, name: row.name }, 'the pod’s shim is dead');
    }
    await node.containers.recover(row.id, undefined);
  } else {
    node.log.warn(
      { sandbox: row.id, name: row.name, reason: found.reason },
      'the pod’s shim does not answer; looking again',
    );
    const again = async () => {
      if (node.closing || node.store.sandboxes.get(row.id) !== row) return;
      try {
        await find(node, row);
      } catch (error) {
        node.log.error({ sandbox: row.id, reason: explain(error) }, 'looking for the pod again failed');
      }
    };
    setTimeout(again, LOOK_AGAIN_MS).unref();
  }
  return found.state;
}
