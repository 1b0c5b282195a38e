import type { SandboxRow } from '../../../node/store/rows.ts';
import type { JobState } from '../../engine/stage.ts';
import { endPodShim } from '../shim-call.ts';
import { netns } from './netns.ts';
import { network } from './network.ts';

/** A pod that is being stopped. */
export type Teardown = JobState<SandboxRow>;

/** Containers get no grace here: kubelet has stopped them with theirs before, and a pod that is stopped at once is meant to be. */
export async function killContainers({ node, row }: Teardown): Promise<void> {
  await node.containers.killAll(row.id);
}

export async function endShim({ node, row }: Teardown): Promise<void> {
  await endPodShim(row, node);
}

export async function releaseNetwork({ node, row }: Teardown): Promise<void> {
  await network.undo(row, node);
}

export async function releaseNetns({ node, row }: Teardown): Promise<void> {
  await netns.undo(row, node);
}

export function stopped({ node, row }: Teardown): void {
  const running = row.state === 'ready';
  row.state = 'stopped';
  node.store.sandboxes.put(row);
  if (running) node.events.publish('stopped', row.id, row.id);
}
