import { randomBytes } from 'node:crypto';
import { basename, join } from 'node:path';
import { NamespaceMode, type PodSandboxConfig, type RunPodSandboxRequest } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import type { Config, RuntimeConfig } from '../../node/config/config.ts';
import { NO_FEATURES } from '../../node/oci/host.ts';
import { ownNamespaces, podNamespaceOptions } from '../../node/oci/namespaces.ts';
import { checkUserNamespace } from '../../node/oci/pod-userns.ts';
import { sandboxName } from '../../node/oci/unique-names.ts';
import { userNamespace } from '../../node/oci/userns.ts';
import { validateSandbox } from '../../node/oci/validate.ts';
import type { PinnedSandbox, SandboxRow } from '../../node/store/sandbox.ts';
import { bundlePath } from './bundle-path.ts';
import type { JobContext } from './context.ts';

/** The one shim that needs no task of the sandbox. */
const RUNC_SHIM = 'containerd-shim-runc-v2';
const UNTRUSTED = 'io.kubernetes.cri.untrusted-workload';

/** A pod that is to be launched: its row, not stored yet, and the runtime it names. */
export interface PodPlan {
  row: SandboxRow;
  runtime: RuntimeConfig;
}

/**
 * Decides everything about a pod that can be decided before anything is made: the row with all paths and the network
 * configuration. Throws INVALID_REQUEST, UNKNOWN_RUNTIME or NETWORK_NOT_READY.
 */
export function planPod(request: RunPodSandboxRequest, ctx: JobContext): PodPlan {
  const { config } = request;
  validateSandbox(config);
  const runtime = chooseRuntime(ctx.config, request);
  checkUserNamespace(config, runtime.name, ctx.features[runtime.name] ?? NO_FEATURES);
  const id = randomBytes(32).toString('hex');
  const { root, state } = ctx.config;
  const row: SandboxRow = {
    id,
    name: sandboxName(config.metadata),
    state: 'creating',
    createdAt: 0n,
    config,
    runtimeHandler: request.runtimeHandler,
    runtime: runtime.name,
    netns: '',
    addresses: [],
    image: '',
    snapshot: join(root, 'snapshots', id),
    bundle: bundlePath(state, id, config),
    rootDir: join(root, 'sandboxes', id),
    stateDir: join(state, 'sandboxes', id),
    pid: 0,
  };
  const namespaces = config.linux?.securityContext?.namespaceOptions;
  if (namespaces?.network !== NamespaceMode.NODE) {
    row.netns = ctx.network.netnsPath();
    row.network = ctx.network.attachment({ id, netns: row.netns, config });
    if (userNamespace(namespaces)) row.userns = `${row.netns}-user`;
  }
  if (runsPinned(config, runtime.config)) row.pinned = pinnedSandbox(row, ctx);
  return { row, runtime: runtime.config };
}

/**
 * Whether the sandbox can do without a process: one is needed as PID 1 of a PID namespace that the pod shares, as the
 * owner of its user namespace, and by the shims of VM runtimes, whose sandbox is a machine.
 */
function runsPinned(config: PodSandboxConfig, runtime: RuntimeConfig): boolean {
  if (runtime.sandbox_mode === 'pause' || basename(runtime.shim) !== RUNC_SHIM) return false;
  const namespaces = podNamespaceOptions(config);
  const pid = namespaces?.pid ?? NamespaceMode.POD;
  return pid !== NamespaceMode.POD && userNamespace(namespaces) === undefined;
}

function pinnedSandbox({ id, config }: SandboxRow, { host, pinFolder }: JobContext): PinnedSandbox {
  const own = ownNamespaces(config);
  const pinned: PinnedSandbox = { bootId: host.bootId, filesPending: true };
  if (own.ipc) pinned.ipc = join(pinFolder, `${id}.ipc`);
  if (own.uts) pinned.uts = join(pinFolder, `${id}.uts`);
  return pinned;
}

/** The untrusted annotation, else the handler, else the default runtime: containerd's order and exclusions. */
function chooseRuntime(
  config: Config,
  { config: pod, runtimeHandler }: RunPodSandboxRequest,
): { name: string; config: RuntimeConfig } {
  let name = runtimeHandler || config.default_runtime;
  if (pod?.annotations[UNTRUSTED] === 'true') {
    if (runtimeHandler !== '' && runtimeHandler !== 'untrusted') {
      throw new SluiceError(
        'INVALID_REQUEST',
        `untrusted workload with explicit runtime handler "${runtimeHandler}" is not allowed`,
      );
    }
    const host = pod.linux?.securityContext?.namespaceOptions;
    if ([host?.network, host?.pid, host?.ipc].includes(NamespaceMode.NODE)) {
      throw new SluiceError('INVALID_REQUEST', 'untrusted workload with host access is not allowed');
    }
    name = 'untrusted';
  }
  const chosen = config.runtimes[name];
  if (!chosen) throw new SluiceError('UNKNOWN_RUNTIME', `no runtime for "${name}" is configured`);
  return { name, config: chosen };
}
