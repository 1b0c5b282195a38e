import { join } from 'node:path';
import type { SandboxRow } from '../../main/store/rows.ts';
import { filled, type PodLaunch } from '../launch.ts';
import type { Node } from '../node.ts';
import { endPodShim, shimCall } from '../shim-call.ts';
import { rootOf } from '../userns.ts';

/** Seconds that the shim's `start` may take; a loaded node takes one where an idle one takes 15 ms. */
const START_SECONDS = 20;

/** The bundle and the process that holds the pod. */
export const shim = {
  async run(state: PodLaunch): Promise<void> {
    const { node, row, runtime } = state;
    const started = await node.pools.shim.call('startShim', {
      ...shimCall(node, row.id),
      bundle: row.bundle,
      workDir: join(row.rootDir, 'work'),
      binary: runtime.shim,
      group: rootOf(row.config)?.gid,
      spec: filled(state.spec, 'spec'),
      socketDir: node.shimSocketDir,
      timeoutMs: START_SECONDS * 1000,
    });
    node.metrics.observe('spawn', { kind: 'shim' }, started.spawnSeconds);
    row.shim = { binary: started.binary, address: started.address, version: started.version };
    node.store.sandboxes.put(row);
    state.shim = await node.shims.connect(row.id, row.shim);
  },
  async undo(row: SandboxRow, node: Node): Promise<void> {
    await endPodShim(row, node);
    node.specs.forget(row);
    await node.pools.shim.call('removeBundle', { bundle: row.bundle, workDir: join(row.rootDir, 'work') });
  },
};
