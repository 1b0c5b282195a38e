/** The files that the containers of a pod share: hostname, hosts, resolv.conf and shm. */
import { NamespaceMode } from '../../../proto/gen/cri.ts';
import { podNamespaceOptions } from '../../node/oci/namespaces.ts';
import { usernsRootOwner } from '../../node/oci/pod-userns.ts';
import type { SandboxRow } from '../../node/store/sandbox.ts';
import type { JobContext } from './context.ts';

/** What making them needs of the node. */
type FilesContext = Pick<JobContext, 'pools' | 'host' | 'store'>;

/** Makes them; idempotent. Throws NAMESPACE_FAILED or DISK_FULL. */
export async function makePodFiles(row: SandboxRow, { pools, host }: FilesContext): Promise<void> {
  const { hostname, dnsConfig } = row.config;
  await pools.shim.call('sandboxFiles', {
    rootDir: row.rootDir,
    stateDir: row.stateDir,
    hostname: hostname || host.hostname,
    dns: dnsConfig,
    hostIpc: podNamespaceOptions(row.config)?.ipc === NamespaceMode.NODE,
    owner: usernsRootOwner(row.config),
  });
}

/** Files of pinned sandboxes that are being made, by sandbox id. */
const making = new Map<string, Promise<void>>();

/**
 * Makes the files of a pinned sandbox unless they are there: a sandbox that gets no container needs none, and four
 * creations on the disk are a third of its launch. Callers at the same time share one making. Throws NAMESPACE_FAILED
 * or DISK_FULL.
 */
export function pinnedFiles(row: SandboxRow, ctx: FilesContext): Promise<void> {
  const under = making.get(row.id);
  if (under) return under;
  const work = makeOnce(row, ctx).finally(() => making.delete(row.id));
  making.set(row.id, work);
  return work;
}

async function makeOnce(row: SandboxRow, ctx: FilesContext): Promise<void> {
  if (!row.pinned?.filesPending) return;
  await makePodFiles(row, ctx);
  row.pinned.filesPending = undefined;
  ctx.store.sandboxes.update(row);
}
