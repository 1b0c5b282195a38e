import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import type { CreateContainerRequest } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import { cgroupsPath } from '../../node/oci/cgroups-path.ts';
import { containerName } from '../../node/oci/unique-names.ts';
import { logPathOf, validateContainer } from '../../node/oci/validate.ts';
import type { ContainerRow } from '../../node/store/container.ts';
import type { SandboxRow } from '../../node/store/sandbox.ts';
import { bundlePath } from './bundle-path.ts';
import type { JobContext } from './context.ts';
import { fifoPaths } from './stages/start-container.ts';

/** Decides everything about a container that can be decided before anything is made. Throws INVALID_REQUEST. */
export function planContainer({ config }: CreateContainerRequest, sandbox: SandboxRow, ctx: JobContext): ContainerRow {
  validateContainer(config, sandbox.config);
  const { metadata } = sandbox.config;
  if (!metadata) throw new SluiceError('INTERNAL', `pod ${sandbox.id} has no metadata`);
  const id = randomBytes(32).toString('hex');
  const { root, state } = ctx.config;
  const stateDir = join(state, 'containers', id);
  return {
    id,
    name: containerName(config.metadata, metadata),
    sandbox: sandbox.id,
    state: 'creating',
    config,
    image: '',
    createdAt: 0n,
    startedAt: 0n,
    finishedAt: 0n,
    exitCode: 0,
    reason: '',
    message: '',
    pid: 0,
    snapshot: join(root, 'snapshots', id),
    bundle: bundlePath(state, id, sandbox.config),
    rootDir: join(root, 'containers', id),
    stateDir,
    logPath: logPathOf(sandbox.config.logDirectory, config.logPath),
    io: fifoPaths(stateDir, config),
    volumes: {},
    cgroupsPath: cgroupsPath(sandbox.config.linux?.cgroupParent ?? '', id, ctx.host.cgroupDriver),
    stopSignal: '',
  };
}
