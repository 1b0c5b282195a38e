import { SluiceError } from '../../errors.ts';
import { cgroupsPath } from '../../node/oci/names.ts';
import type { Shim } from '../../node/shims/shims.ts';
import type { Task } from '../../node/shims/task.ts';
import type { ContainerRow, SandboxRow } from '../../node/store/rows.ts';
import { SIGKILL } from '../../sys/signals.ts';
import type { Node } from './context.ts';
import { runtimeOptions } from './runtime-options.ts';

/** containerd's namespace for Kubernetes; shims and runtimes keep ours apart by the roots, not by this. */
export const NAMESPACE = 'k8s.io';

/** What every call of the shim's program has in common. */
export function shimCall(node: Node, id: string) {
  return { id, namespace: NAMESPACE, addresses: node.shimAddresses };
}

/**
 * The pod's shim, or undefined when it is dead. Throws when it is neither: nothing may be done to a pod on a guess.
 */
export async function findShim(row: SandboxRow, node: Node): Promise<Shim | undefined> {
  if (!row.shim) return undefined;
  const found = await node.shims.reattach(row.id, row.shim);
  if (found.state === 'unknown') {
    throw new SluiceError('SHIM_FAILED', `the shim of pod ${row.id} is neither alive nor dead: ${found.reason}`);
  }
  return found.state === 'alive' ? found.shim : undefined;
}

/**
 * Ends the pause task and the pod's shim, however far they got: through the shim where it answers, by its `delete` action where
 * it is dead, also when it dies meanwhile.
 */
export async function endPodShim(row: SandboxRow, node: Node): Promise<void> {
  if (row.shimEnded) return;
  await endShim(row, node);
  row.shimEnded = true;
  node.store.sandboxes.put(row);
}

async function endShim(row: SandboxRow, node: Node): Promise<void> {
  const shim = await findShim(row, node);
  if (shim) {
    try {
      const known = await endTask(shim.task, row.id);
      await node.shims.shutdown(shim);
      // A task the shim does not know may have been on its way: a `runc create` that a dead daemon had asked for.
      if (known) return;
    } catch (error) {
      if (shim.open) throw error;
    }
  }
  await cleanUpPodShim(row, node);
}

/** Kills a task, waits for its end and deletes it; one that is gone already is fine. Did the shim know it? */
export async function endTask(task: Task, id: string): Promise<boolean> {
  if (await task.kill(id, SIGKILL)) await task.wait(id, '', 60_000);
  return (await task.delete(id)) !== undefined;
}

/**
 * Kills and removes what a container has left in the runtime and in its cgroups. Only for one that no shim looks after: the pod's
 * is known to be dead, or has said that it does not know the task.
 */
export async function cleanUpContainer(row: ContainerRow, sandbox: SandboxRow, node: Node): Promise<void> {
  await cleanUp(sandbox, node, { id: row.id, bundle: row.bundle, cgroupsPath: row.cgroupsPath });
}

/** Kills and removes what the pod's shim has left, which must be dead or of no use. */
export async function cleanUpPodShim(row: SandboxRow, node: Node): Promise<void> {
  const parent = row.config.linux?.cgroupParent ?? '';
  const { id, bundle, shim } = row;
  await cleanUp(row, node, {
    id,
    bundle,
    address: shim?.address,
    cgroupsPath: cgroupsPath(parent, id, node.host.cgroupDriver),
  });
  node.shims.forget(id);
}

async function cleanUp(
  sandbox: SandboxRow,
  node: Node,
  left: { id: string; bundle: string; address?: string; cgroupsPath: string },
): Promise<void> {
  const { id, bundle, address, cgroupsPath } = left;
  const runtime = node.config.runtimes[sandbox.runtime];
  if (!runtime)
    throw new SluiceError('UNKNOWN_RUNTIME', `the runtime "${sandbox.runtime}" of this pod is not configured any more`);
  const { binary, root } = runtimeOptions(node, runtime);
  const { warnings } = await node.pools.shim.call('cleanupShim', {
    ...shimCall(node, id),
    bundle,
    binary: sandbox.shim?.binary ?? runtime.shim,
    runtime: { binary, root },
    address,
  });
  await node.pools.shim.call('removeCgroups', { cgroupsPath });
  if (warnings.length > 0) node.log.warn({ sandbox: sandbox.id, id, warnings }, 'cleaned up what no shim looks after');
}
