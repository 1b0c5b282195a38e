import { SluiceError } from '../../errors.ts';
import type { Shim } from '../../node/shims/shims.ts';
import type { ContainerRow } from '../../node/store/container.ts';
import type { SandboxRow } from '../../node/store/sandbox.ts';
import type { JobContext } from './context.ts';
import { findShim } from './pod-shim.ts';

/** What a look-up by id uses. */
type Lookup = Pick<JobContext, 'store' | 'unclaimed'>;

/**
 * The sandbox with this id, or the only one whose id begins so. The look-up claims it: a kubelet that restarts during a
 * launch lists the ready sandbox and uses its id, and never calls RunPodSandbox again. Throws SANDBOX_NOT_FOUND.
 */
export function getSandbox(idOrPrefix: string, { store, unclaimed }: Lookup): SandboxRow {
  const row = store.sandboxes.find(idOrPrefix);
  if (!row) throw SluiceError.of('SANDBOX_NOT_FOUND', idOrPrefix);
  unclaimed.delete(row.id);
  return row;
}

/** The sandbox with this id, which has to be ready. Throws SANDBOX_NOT_FOUND, NOT_READY. */
export function readySandbox(idOrPrefix: string, ctx: Lookup): SandboxRow {
  const row = getSandbox(idOrPrefix, ctx);
  requireReady(row);
  return row;
}

/** Throws NOT_READY. */
export function requireReady({ id, state }: SandboxRow): void {
  if (state !== 'ready') throw SluiceError.of('NOT_READY', 'pod', id, 'ready', state);
}

/**
 * The container with this id, or the only one whose id begins so. Claims it and its sandbox. Throws
 * CONTAINER_NOT_FOUND.
 */
export function getContainer(idOrPrefix: string, { store, unclaimed }: Lookup): ContainerRow {
  const row = store.containers.find(idOrPrefix);
  if (!row) throw SluiceError.of('CONTAINER_NOT_FOUND', idOrPrefix);
  unclaimed.delete(row.id);
  unclaimed.delete(row.sandbox);
  return row;
}

/**
 * A running container and the connection to the shim that runs it. Throws CONTAINER_NOT_FOUND, NOT_READY, SHIM_FAILED.
 */
export async function runningContainer(
  id: string,
  ctx: Lookup & Pick<JobContext, 'shims'>,
): Promise<{ row: ContainerRow; shim: Shim }> {
  const row = getContainer(id, ctx);
  if (row.state !== 'running') throw SluiceError.of('NOT_READY', 'container', row.id, 'running', row.state);
  const sandbox = ctx.store.sandboxes.get(row.sandbox);
  const shim = sandbox && (await findShim(sandbox, ctx));
  if (!shim) throw new SluiceError('SHIM_FAILED', `the shim of container ${row.id} is dead`);
  return { row, shim };
}
