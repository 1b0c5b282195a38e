import type { ContainerRow } from '../../node/store/rows.ts';
import type { Node } from './context.ts';
import { ended } from './ended.ts';
import { observed } from './observed.ts';
import { startContainer } from './tables/start-container.ts';

/** containerd's number for a container that never got to run. */
const START_ERROR = 128;

/** Records and tells that a container was not started, and why. Nothing of its task may be left. */
export function startFailed(row: ContainerRow, node: Node, message: string): void {
  ended(row, node, { code: START_ERROR, reason: 'StartError', message });
}

/**
 * Takes back a start that was given up half-way, then tells that it failed; a container in any other state than `starting` is fine.
 * The caller holds the container's lock, so that no start is under way. Throws when something is left: the row says `starting` still.
 */
export async function undoStart(row: ContainerRow, node: Node): Promise<void> {
  if (row.state !== 'starting') return;
  const { id, sandbox } = row;
  const job = node.observer.jobQueued({ job: 'StartContainer', origin: 'recovery', sandbox, container: id });
  await observed(node, job, () => node.engine.undo(startContainer, row, node, job));
  startFailed(row, node, row.message);
}

/**
 * {@link undoStart} in the background, after `firstDelayMs` (0: at once) and then with growing pauses until nothing is left. Only then is
 * the end told, with `message`: a container that is known to have ended has no task any more, and can be removed.
 */
export function undoStartLater(row: ContainerRow, node: Node, message: string, firstDelayMs?: number): void {
  row.state = 'starting';
  row.message = message;
  node.store.containers.put(row);
  const undo = async () => {
    using _together = await node.locks.take(row.sandbox, 'shared');
    using _alone = await node.locks.take(row.id, 'exclusive');
    await undoStart(row, node);
  };
  const onFailure = (failed: string, attempts: number) =>
    node.log.warn({ container: row.id, attempts, failed }, 'a start that failed could not be taken back; trying again');
  node.cleaner.add(row.id, undo, onFailure, firstDelayMs);
}
