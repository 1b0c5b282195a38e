import { NamespaceMode, type NamespaceOption, type PodSandboxConfig } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import type { HostFacts } from './host.ts';
import type { OwnNamespaces } from './sysctls.ts';
import type { Namespace } from './types.ts';
import { userNamespace } from './userns.ts';

/** The pod's namespace options. Undefined means the default of every option: no namespace shared with the host. */
export function podNamespaceOptions(config: PodSandboxConfig): NamespaceOption | undefined {
  return config.linux?.securityContext?.namespaceOptions;
}

/** Whether the pod uses the host's network namespace, and therefore its UTS namespace. */
export function onHostNetwork(config: PodSandboxConfig): boolean {
  return podNamespaceOptions(config)?.network === NamespaceMode.NODE;
}

/** Which namespaces the pod has itself, as opposed to sharing the host's. */
export function ownNamespaces(config: PodSandboxConfig): OwnNamespaces & { pid: boolean } {
  const options = podNamespaceOptions(config);
  const network = !onHostNetwork(config);
  return {
    network,
    uts: network, // CRI has no option for UTS: it follows the network
    ipc: options?.ipc !== NamespaceMode.NODE,
    pid: options?.pid !== NamespaceMode.NODE,
    user: userNamespace(options) !== undefined,
  };
}

/**
 * Namespaces of a pause container. `netns` and `userns` are paths of pinned namespaces. The runtime creates a namespace
 * without a path.
 */
export function sandboxNamespaces(config: PodSandboxConfig, netns: string, userns: string | undefined): Namespace[] {
  const own = ownNamespaces(config);
  const namespaces: Namespace[] = [{ type: 'mount' }];
  if (own.pid) namespaces.push({ type: 'pid' });
  if (own.ipc) namespaces.push({ type: 'ipc' });
  if (own.uts) namespaces.push({ type: 'uts' });
  if (own.network) namespaces.push(joined('network', netns));
  if (own.user) namespaces.push(joined('user', userns ?? ''));
  return namespaces;
}

interface ContainerNamespaceInput {
  config: PodSandboxConfig;
  options: NamespaceOption | undefined;
  /** Pid of the pause process, whose namespaces are the pod's; 0 in a pinned sandbox. */
  sandboxPid: number;
  /** Paths of a pinned sandbox's namespaces. */
  pinned: { ipc?: string; uts?: string } | undefined;
  netns: string;
  userns: string | undefined;
  /**
   * Pid of the first process of the target container (pid mode TARGET). The caller checks that it belongs to this pod.
   */
  targetPid: number | undefined;
  privileged: boolean;
  host: HostFacts;
}

/**
 * Namespaces of a container: those of the pod, by the pinned path where there is one (it outlives the pause process),
 * else by /proc/<pid of the pause process>/ns. Namespaces that the pod shares with the host are omitted: the runtime
 * then stays in the host's, without a setns(2).
 *
 * The pid mode is an option of the container: CONTAINER creates a namespace, POD (the default) and NODE use the pod's,
 * TARGET uses that of another container. Throws INVALID_REQUEST when the target of mode TARGET is not running.
 */
export function containerNamespaces(input: ContainerNamespaceInput): Namespace[] {
  const { config, options, sandboxPid, pinned, netns, userns, host, privileged } = input;
  const own = ownNamespaces(config);
  const ofPause = (name: string) => `/proc/${sandboxPid}/ns/${name}`;
  const namespaces: Namespace[] = [{ type: 'mount' }];
  if (own.network) namespaces.push({ type: 'network', path: netns || ofPause('net') });
  if (own.ipc) namespaces.push({ type: 'ipc', path: pinned?.ipc ?? ofPause('ipc') });
  if (own.uts) namespaces.push({ type: 'uts', path: pinned?.uts ?? ofPause('uts') });
  if (own.user) namespaces.push({ type: 'user', path: userns ?? ofPause('user') });
  switch (options?.pid) {
    case NamespaceMode.CONTAINER:
      namespaces.push({ type: 'pid' });
      break;
    case NamespaceMode.TARGET:
      if (input.targetPid === undefined) {
        throw new SluiceError(
          'INVALID_REQUEST',
          `linux.security_context.namespace_options.target_id: container "${options.targetId}" of this pod is not running`,
        );
      }
      namespaces.push({ type: 'pid', path: `/proc/${input.targetPid}/ns/pid` });
      break;
    default:
      // A pinned sandbox was asked for a PID namespace per container, and has none to share.
      if (own.pid && pinned) namespaces.push({ type: 'pid' });
      else if (own.pid) namespaces.push({ type: 'pid', path: ofPause('pid') });
  }
  if (ownCgroupNamespace(host, privileged)) namespaces.push({ type: 'cgroup' });
  return namespaces;
}

/**
 * Whether a container gets its own cgroup namespace, which hides the host's tree. Not on cgroup v1, whose mounts do not
 * work in one on all kernels, and not for privileged containers, which expect the host's tree.
 */
export function ownCgroupNamespace(host: HostFacts, privileged: boolean): boolean {
  return host.cgroupVersion === 2 && !privileged;
}

function joined(type: Namespace['type'], path: string): Namespace {
  return path === '' ? { type } : { type, path };
}
