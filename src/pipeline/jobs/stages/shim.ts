import { join } from 'node:path';
import { explain } from '../../../errors.ts';
import { rootOf } from '../../../node/oci/pod-userns.ts';
import type { Shim } from '../../../node/shims/shims.ts';
import type { SandboxRow } from '../../../node/store/rows.ts';
import type { DirectStart } from '../../../workers/shim/direct.ts';
import type { Node } from '../context.ts';
import { filled, type PodLaunch } from '../launch.ts';
import { cleanUpPodShim, endPodShim, shimCall } from '../shim-call.ts';

/** Seconds that a shim may take until it answers; a loaded node takes one where an idle one takes 15 ms. */
const START_SECONDS = 20;

/** The bundle and the process that holds the pod. */
export const shim = {
  async run(state: PodLaunch): Promise<void> {
    const { node, row, runtime } = state;
    const { directStarts } = node.shims;
    const direct = runtime.shim_start === 'auto' ? directStarts.eligible(runtime.shim) : undefined;
    try {
      state.shim = await startShim(state, direct);
    } catch (error) {
      if (!direct || !directStarts.directFailed(direct)) throw error;
      node.log.warn(
        { sandbox: row.id, shim: direct.key, reason: explain(error) },
        'this shim cannot be started without its start command, which is used from now on',
      );
      await cleanUpPodShim(row, node);
      await removeBundle(row, node);
      state.shim = await startShim(state, undefined);
    }
  },
  async undo(row: SandboxRow, node: Node): Promise<void> {
    await endPodShim(row, node);
    node.specs.forget(row);
    await removeBundle(row, node);
  },
};

/** Starts the shim and waits for its first answer. */
async function startShim({ node, row, runtime, spec }: PodLaunch, direct: DirectStart | undefined): Promise<Shim> {
  const timeoutMs = START_SECONDS * 1000;
  const { child, spawnSeconds, key, ...started } = await node.pools.shim.call('startShim', {
    ...shimCall(node, row.id),
    bundle: row.bundle,
    workDir: join(row.rootDir, 'work'),
    binary: runtime.shim,
    group: rootOf(row.config)?.gid,
    spec: filled(spec, 'spec'),
    socketDir: node.shimSocketDir,
    timeoutMs,
    direct,
  });
  node.metrics.observe('spawn', { kind: 'shim' }, spawnSeconds);
  const { binary, address, version } = started;
  row.shim = { binary, address, version };
  node.store.sandboxes.put(row);
  const shim = await node.shims.connect(row.id, row.shim, { child, timeoutMs });
  if (child === undefined) node.shims.directStarts.commandSucceeded(runtime.shim, { key, version: shim.task.version });
  else if (direct) node.shims.directStarts.directSucceeded(direct);
  return shim;
}

function removeBundle({ bundle, rootDir }: SandboxRow, node: Node): Promise<void> {
  return node.pools.shim.call('removeBundle', { bundle, workDir: join(rootDir, 'work') });
}
