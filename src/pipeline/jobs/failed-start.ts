/** What becomes of a container whose start failed: its task is undone, then it is exited with reason StartError. */
import type { ContainerRow } from '../../node/store/container.ts';
import type { JobServices } from './context.ts';
import { startContainer } from './tables/start-container.ts';

/** containerd's exit code of a container that never ran. */
const START_ERROR = 128;

/** Records that a container was not started, and why. Nothing of its task may be left. */
export function startFailed(row: ContainerRow, { ctx }: JobServices, message: string): void {
  ctx.containerStates.exited(row, { exitCode: START_ERROR, reason: 'StartError', message });
}

/**
 * Undoes a start that was given up half-way, then records that it failed; a container in any other state than
 * `starting` is fine. The caller holds the container's lock, so that no start is under way. Rejects when something is
 * left: the row stays `starting`.
 */
export async function undoStart(row: ContainerRow, services: JobServices): Promise<void> {
  if (row.state !== 'starting') return;
  const { id, sandbox } = row;
  const start = { job: 'StartContainer', origin: 'recovery', sandbox, container: id } as const;
  await services.runner.undo(startContainer, row, services.ctx, start);
  startFailed(row, services, row.message);
}

/**
 * {@link undoStart} in the background, after `firstDelayMs` (0: at once) and then with growing pauses until nothing is
 * left. The end is recorded only then, with `message`: a container that has exited has no task any more, and can be
 * removed.
 */
export function undoStartLater(row: ContainerRow, services: JobServices, message: string, firstDelayMs?: number): void {
  const { ctx, locks, retries } = services;
  ctx.containerStates.starting(row, message);
  const undo = async () => {
    using _shared = await locks.take('pod', row.sandbox, 'shared');
    using _exclusive = await locks.take('container', row.id, 'exclusive');
    await undoStart(row, services);
  };
  const onFailure = (failed: string, attempts: number) =>
    ctx.log.warn({ container: row.id, attempts, failed }, 'the undo of a failed start failed; it is tried again');
  retries.add(row.id, undo, onFailure, firstDelayMs);
}
