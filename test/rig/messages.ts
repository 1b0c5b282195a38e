/**
 * CRI messages with protobuf's defaults in every field that a test does not give, and the configs of pods and
 * containers that run.
 */
import {
  ContainerConfig,
  ImageSpec,
  LinuxContainerConfig,
  LinuxContainerResources,
  LinuxContainerSecurityContext,
  LinuxPodSandboxConfig,
  LinuxSandboxSecurityContext,
  Mount,
  NamespaceMode,
  NamespaceOption,
  PodSandboxConfig,
} from '../../proto/gen/cri.ts';

const NONE = new Uint8Array();

const message =
  <T>(type: { decode(bytes: Uint8Array): T }) =>
  (over: Partial<T> = {}): T => ({ ...type.decode(NONE), ...over });

export const emptyPod = message(PodSandboxConfig);
export const podLinux = message(LinuxPodSandboxConfig);
export const podSecurity = message(LinuxSandboxSecurityContext);
export const namespaces = message(NamespaceOption);
export const emptyContainer = message(ContainerConfig);
export const containerLinux = message(LinuxContainerConfig);
export const containerSecurity = message(LinuxContainerSecurityContext);
export const resources = message(LinuxContainerResources);
export const mount = message(Mount);

export const imageSpec = (image: string): ImageSpec => ({ ...ImageSpec.decode(NONE), image });

export interface PodOptions extends Partial<Omit<PodSandboxConfig, 'linux' | 'metadata'>> {
  uid?: string;
  namespace?: string;
  attempt?: number;
  cgroupParent?: string;
  sysctls?: Record<string, string>;
  /** Share the node's namespaces. */
  host?: { network?: boolean; pid?: boolean; ipc?: boolean };
}

/** A complete pod config: network and IPC of its own, containers with a pid namespace each, unless said otherwise. */
export function podConfig(name: string, options: PodOptions = {}): PodSandboxConfig {
  const { uid, namespace, attempt, cgroupParent, sysctls, host, ...rest } = options;
  const mode = (shared: boolean | undefined) => (shared ? NamespaceMode.NODE : NamespaceMode.POD);
  return emptyPod({
    metadata: { name, uid: uid ?? `uid-${name}`, namespace: namespace ?? 'rig', attempt: attempt ?? 0 },
    hostname: host?.network ? '' : name.slice(0, 63),
    linux: podLinux({
      cgroupParent: cgroupParent ?? '',
      sysctls: sysctls ?? {},
      securityContext: podSecurity({
        namespaceOptions: namespaces({
          network: mode(host?.network),
          pid: host?.pid ? NamespaceMode.NODE : NamespaceMode.CONTAINER,
          ipc: mode(host?.ipc),
        }),
      }),
    }),
    ...rest,
  });
}

/** A complete container config that runs `command` of `image`. */
export function containerConfig(
  name: string,
  image: string,
  command: string[],
  options: Partial<ContainerConfig> = {},
): ContainerConfig {
  return emptyContainer({
    metadata: { name, attempt: 0 },
    image: imageSpec(image),
    command,
    linux: linux({}),
    ...options,
  });
}

/** The `linux` of a container's config, with a pid namespace of its own. */
export function linux(change: {
  security?: Partial<LinuxContainerSecurityContext>;
  resources?: Partial<LinuxContainerResources>;
}): LinuxContainerConfig {
  return containerLinux({
    securityContext: containerSecurity({
      namespaceOptions: namespaces({ pid: NamespaceMode.CONTAINER }),
      ...change.security,
    }),
    resources: change.resources && resources(change.resources),
  });
}
