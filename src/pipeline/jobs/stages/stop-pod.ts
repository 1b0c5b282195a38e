import type { SandboxRow } from '../../../node/store/sandbox.ts';
import type { JobState } from '../context.ts';
import { endPodShim, probeShim } from '../pod-shim.ts';
import { netns, network } from './run-pod.ts';

/** The state of a pod that is being stopped. */
export interface PodStop extends JobState<SandboxRow> {
  /** Kills the pod's containers and resolves when their ends are recorded. */
  killContainers: () => Promise<void>;
}

/**
 * Containers get no grace here: kubelet has stopped them with theirs before, and a pod that is stopped at once is meant
 * to be.
 */
export const kill = {
  async run({ ctx, row, killContainers }: PodStop): Promise<void> {
    await probeShim(row, ctx); // here, since this stage takes no slot
    await killContainers();
  },
};

/** From the end of its processes on the pod is not ready, whatever happens to its network. */
export const endShim = {
  async run({ ctx, row }: PodStop): Promise<void> {
    await endPodShim(row, ctx);
    if (row.state === 'ready') ctx.sandboxStates.notReady(row);
  },
};

export const releaseNetwork = { run: ({ ctx, row }: PodStop): Promise<void> => network.undo(row, ctx) };

export const releaseNetns = { run: ({ ctx, row }: PodStop): Promise<void> => netns.undo(row, ctx) };

export const stopped = { run: ({ ctx, row }: PodStop): void => ctx.sandboxStates.stopped(row) };
