import type { PodSandboxStatusRequest, PodSandboxStatusResponse } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import type { SandboxRow } from '../../node/store/sandbox.ts';
import { isNsfs } from '../../sys/mount.ts';
import { noInfo, type Unary } from './call.ts';
import { goJson } from './go-json.ts';
import { toPodSandboxStatus, visible } from './sandbox-view.ts';
import type { CriServices as Node } from './services.ts';

export const podSandboxStatus =
  (node: Node): Unary<PodSandboxStatusRequest, PodSandboxStatusResponse> =>
  async ({ podSandboxId, verbose }) => {
    const row = node.store.sandboxes.find(podSandboxId);
    if (!row || !visible(row))
      throw new SluiceError('SANDBOX_NOT_FOUND', `no pod sandbox has the id "${podSandboxId}"`);
    return {
      status: toPodSandboxStatus(row),
      info: verbose ? { info: JSON.stringify(await inspect(node, row)) } : noInfo(),
      containersStatuses: [],
      timestamp: 0n,
    };
  };

/** The keys that users of `crictl inspectp` know from containerd. */
async function inspect(node: Node, row: SandboxRow): Promise<object> {
  const runtime = node.config.runtimes[row.runtime];
  return {
    pid: row.pid,
    processStatus: row.state === 'ready' ? 'running' : 'deleted',
    netNamespaceClosed: row.netns !== '' && !isNsfs(row.netns),
    image: node.images.find(row.image)?.names[0] ?? row.image,
    snapshotKey: row.id,
    snapshotter: 'overlayfs',
    runtimeHandler: row.runtimeHandler,
    runtimeType: 'io.containerd.runc.v2',
    runtimeOptions: { binary: runtime?.binary, shim: row.shim?.binary },
    config: goJson(row.config),
    runtimeSpec: await node.specs.of(row),
    cniResult: row.result ?? null,
    sandboxMetadata: {
      ID: row.id,
      Name: row.name,
      NetNSPath: row.netns,
      IP: row.addresses[0] ?? '',
      AdditionalIPs: row.addresses.slice(1),
    },
    cleanup: row.cleanup,
  };
}
