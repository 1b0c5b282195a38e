import { SluiceError } from '../../errors.ts';
import type { Shim } from '../../node/shims/shims.ts';
import type { ContainerRow } from '../../node/store/container.ts';
import type { SandboxRow } from '../../node/store/sandbox.ts';
import type { JobContext } from './context.ts';
import { findShim } from './pod-shim.ts';

/** The sandbox with this id, or the only one whose id begins so. Throws SANDBOX_NOT_FOUND. */
export function getSandbox(idOrPrefix: string, { store }: Pick<JobContext, 'store'>): SandboxRow {
  const row = store.sandboxes.find(idOrPrefix);
  if (!row) throw new SluiceError('SANDBOX_NOT_FOUND', `no pod sandbox has the id "${idOrPrefix}"`);
  return row;
}

/** The container with this id, or the only one whose id begins so. Throws CONTAINER_NOT_FOUND. */
export function getContainer(idOrPrefix: string, { store }: Pick<JobContext, 'store'>): ContainerRow {
  const row = store.containers.find(idOrPrefix);
  if (!row) throw new SluiceError('CONTAINER_NOT_FOUND', `no container has the id "${idOrPrefix}"`);
  return row;
}

/** A running container and the connection to the shim that runs it. Throws CONTAINER_NOT_FOUND, NOT_READY, SHIM_FAILED. */
export async function runningContainer(
  id: string,
  ctx: Pick<JobContext, 'store' | 'shims'>,
): Promise<{ row: ContainerRow; shim: Shim }> {
  const row = getContainer(id, ctx);
  if (row.state !== 'running') throw new SluiceError('NOT_READY', `container ${row.id} is not running`);
  const sandbox = ctx.store.sandboxes.get(row.sandbox);
  const shim = sandbox && (await findShim(sandbox, ctx));
  if (!shim) throw new SluiceError('SHIM_FAILED', `the shim of container ${row.id} is dead`);
  return { row, shim };
}
