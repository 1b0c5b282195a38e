import { NamespaceMode, type NamespaceOption, type PodSandboxConfig } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import type { HostFacts } from './host.ts';
import type { OwnNamespaces } from './sysctls.ts';
import type { Namespace } from './types.ts';
import { userNamespace } from './userns.ts';

/** The pod's namespace options; a pod without any shares nothing with the host. */
export function podNamespaceOptions(config: PodSandboxConfig): NamespaceOption | undefined {
  return config.linux?.securityContext?.namespaceOptions;
}

/** Is the pod on the host's network (and so under its host name)? */
export function onHostNetwork(config: PodSandboxConfig): boolean {
  return podNamespaceOptions(config)?.network === NamespaceMode.NODE;
}

/** Which namespaces a pod has of its own. */
export function ownNamespaces(config: PodSandboxConfig): OwnNamespaces & { pid: boolean } {
  const options = podNamespaceOptions(config);
  const network = !onHostNetwork(config);
  return {
    network,
    uts: network, // CRI has no option for it: the host's name goes with the host's network
    ipc: options?.ipc !== NamespaceMode.NODE,
    pid: options?.pid !== NamespaceMode.NODE,
    user: userNamespace(options) !== undefined,
  };
}

/** Namespaces of a pause container. `netns` and `userns` are the pinned paths; without one of a user namespace the runtime makes it. */
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

export interface ContainerNamespaceInput {
  config: PodSandboxConfig;
  options: NamespaceOption | undefined;
  /** The pause process, whose namespaces are the pod's. */
  sandboxPid: number;
  netns: string;
  userns: string | undefined;
  /** First process of the container whose pid namespace is joined (mode TARGET); the caller has checked that it is of this pod. */
  targetPid: number | undefined;
  privileged: boolean;
  host: HostFacts;
}

/**
 * Namespaces of an ordinary container: the pod's, by pinned path where there is one (it outlives the pause process), else by the
 * pause process. What the pod shares with the host is left out, which means the same to the runtime and saves it a setns.
 *
 * The pid mode is the container's own: CONTAINER makes a new one, POD (also when nothing is said) and NODE take the pod's, TARGET another
 * container's. Throws INVALID_REQUEST where TARGET has no process to join.
 */
export function containerNamespaces(input: ContainerNamespaceInput): Namespace[] {
  const { config, options, sandboxPid, netns, userns, host, privileged } = input;
  const own = ownNamespaces(config);
  const ofPause = (name: string) => `/proc/${sandboxPid}/ns/${name}`;
  const namespaces: Namespace[] = [{ type: 'mount' }];
  if (own.network) namespaces.push({ type: 'network', path: netns || ofPause('net') });
  if (own.ipc) namespaces.push({ type: 'ipc', path: ofPause('ipc') });
  if (own.uts) namespaces.push({ type: 'uts', path: ofPause('uts') });
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
      if (own.pid) namespaces.push({ type: 'pid', path: ofPause('pid') });
  }
  if (ownCgroupNamespace(host, privileged)) namespaces.push({ type: 'cgroup' });
  return namespaces;
}

/** A cgroup namespace hides the host's tree; v1 mounts do not work in one everywhere, and privileged containers expect the whole tree. */
export function ownCgroupNamespace(host: HostFacts, privileged: boolean): boolean {
  return host.cgroupVersion === 2 && !privileged;
}

function joined(type: Namespace['type'], path: string): Namespace {
  return path === '' ? { type } : { type, path };
}
