import { signalNumber } from '../../../node/oci/signals.ts';
import type { Shim } from '../../../node/shims/shims.ts';
import type { ContainerRow } from '../../../node/store/container.ts';
import { SIGKILL } from '../../../sys/signals.ts';
import { withTimeLimit } from '../../../time-limit.ts';
import type { JobState } from '../context.ts';
import { signalTask } from '../pod-shim.ts';

/** Seconds that a killed process may take to end: it may be in uninterruptible sleep (D state), waiting for a disk. */
const KILL_WAIT_SECONDS = 120;

/** The state of a container that is being stopped. */
export interface ContainerStop extends JobState<ContainerRow> {
  /** Undefined when the pod's shim is dead, and the container with it. */
  shim: Shim | undefined;
  /** Seconds between the stop signal and SIGKILL; 0: SIGKILL at once. */
  graceSeconds: number;
}

/**
 * The stop signal once, the grace, then SIGKILL. Resolves when the end is recorded: log drained, exit code known. A
 * second caller with a shorter grace does not wait for the first one's.
 */
export const kill = {
  extraSeconds: ({ graceSeconds }: ContainerStop): number => graceSeconds,
  run: killContainer,
};

async function killContainer({ ctx, row, shim, graceSeconds }: ContainerStop): Promise<void> {
  if (row.state !== 'running') return;
  // A recovery that found the shim late may not have come to this container yet. Unwatched, it would count as ended.
  if (shim && !ctx.exits.watches(row.id)) ctx.exits.watchContainer(row, shim);
  const ended = ctx.exits.containerEnded(row.id);
  // The watcher of the container (exits.ts) cleans up after the dead shim.
  if (!shim) {
    if (await within(ended, KILL_WAIT_SECONDS)) return;
    throw new Error(`container ${row.id} of a dead shim could not be cleaned up within ${KILL_WAIT_SECONDS} s`);
  }
  if (graceSeconds > 0 && !ctx.exits.stopSignalled(row.id)) {
    if (!(await signalTask(shim.task, row, signalNumber(row.stopSignal), ctx))) return ended;
    if (await within(ended, graceSeconds)) return;
  } else if (graceSeconds > 0 && (await within(ended, graceSeconds))) return;
  ctx.exits.killing(row.id);
  await signalTask(shim.task, row, SIGKILL, ctx);
  if (!(await within(ended, KILL_WAIT_SECONDS))) {
    throw new Error(`container ${row.id} still lives ${KILL_WAIT_SECONDS} s after SIGKILL`);
  }
}

/** Resolves to whether `event` happens within so many seconds. */
function within(event: Promise<void>, seconds: number): Promise<boolean> {
  return withTimeLimit(
    event.then(() => true),
    seconds * 1000,
    () => false,
  );
}
