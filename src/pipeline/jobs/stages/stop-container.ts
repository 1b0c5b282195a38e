import { signalNumber } from '../../../node/oci/signals.ts';
import { SIGKILL } from '../../../sys/signals.ts';
import type { ContainerStop } from '../creation.ts';

/** Seconds that a process which was killed may take to be gone: it may sit in the kernel, waiting for a disk. */
const KILL_WAIT_SECONDS = 120;

/**
 * The stop signal once, the grace, then SIGKILL. Resolves when the end is recorded: log drained, exit code known. A
 * second caller with a shorter grace does not wait for the first one's.
 */
export async function kill({ node, row, shim, graceSeconds }: ContainerStop): Promise<void> {
  if (row.state !== 'running') return;
  const ended = node.monitor.containerEnded(row.id);
  // Who watches it cleans up after the dead shim.
  if (!shim) {
    if (await within(ended, KILL_WAIT_SECONDS)) return;
    throw new Error(`container ${row.id} of a dead shim could not be cleaned up within ${KILL_WAIT_SECONDS} s`);
  }
  if (graceSeconds > 0 && !node.monitor.stopSignalled(row.id)) {
    if (!(await shim.task.kill(row.id, signalNumber(row.stopSignal)))) return ended;
    if (await within(ended, graceSeconds)) return;
  } else if (graceSeconds > 0 && (await within(ended, graceSeconds))) return;
  node.monitor.killing(row.id);
  await shim.task.kill(row.id, SIGKILL);
  if (!(await within(ended, KILL_WAIT_SECONDS))) {
    throw new Error(`container ${row.id} still lives ${KILL_WAIT_SECONDS} s after SIGKILL`);
  }
}

/** Did it happen within so many seconds? */
async function within(event: Promise<void>, seconds: number): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const timer = setTimeout(() => resolve(false), Math.min(seconds * 1000, 0x7fffffff));
  try {
    return await Promise.race([event.then(() => true), promise]);
  } finally {
    clearTimeout(timer);
  }
}
