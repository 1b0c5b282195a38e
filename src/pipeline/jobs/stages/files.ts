import { NamespaceMode } from '../../../../proto/gen/cri.ts';
import { rootOf } from '../../../node/oci/pod-userns.ts';
import type { SandboxRow } from '../../../node/store/rows.ts';
import type { Node } from '../context.ts';
import { unmountImageVolumes } from '../image-volumes.ts';
import type { PodLaunch } from '../launch.ts';

/** The pod's own files: hostname, hosts, resolv.conf under the root folder, shm under the state folder. */
export const files = {
  async run({ node, row }: PodLaunch): Promise<void> {
    const { hostname, dnsConfig, linux } = row.config;
    const namespaces = linux?.securityContext?.namespaceOptions;
    await node.pools.shim.call('sandboxFiles', {
      rootDir: row.rootDir,
      stateDir: row.stateDir,
      hostname: hostname || node.host.hostname,
      dns: dnsConfig,
      hostIpc: namespaces?.ipc === NamespaceMode.NODE,
      owner: rootOf(row.config),
    });
  },
  async undo(row: SandboxRow, node: Node): Promise<void> {
    await unmountImageVolumes(node, row);
    await node.pools.shim.call('removeSandboxFiles', { rootDir: row.rootDir, stateDir: row.stateDir });
  },
};
