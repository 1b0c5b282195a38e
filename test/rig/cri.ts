/** Complete CRI requests for tests, the load generator and the demo, and the client that sends them. */
import {
  ContainerConfig,
  ContainerMetadata,
  ImageSpec,
  LinuxContainerConfig,
  LinuxContainerSecurityContext,
  LinuxPodSandboxConfig,
  LinuxSandboxSecurityContext,
  NamespaceMode,
  NamespaceOption,
  PodSandboxConfig,
} from '../../proto/gen/cri.ts';
import type { Cri } from '../../src/main/cri/client.ts';

export { type CallOptions, type Calls, type Cri, connectCri, type Streams } from '../../src/main/cri/client.ts';

const empty = new Uint8Array();

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
  return {
    ...PodSandboxConfig.decode(empty),
    metadata: { name, uid: uid ?? `uid-${name}`, namespace: namespace ?? 'rig', attempt: attempt ?? 0 },
    hostname: host?.network ? '' : name.slice(0, 63),
    linux: {
      ...LinuxPodSandboxConfig.decode(empty),
      cgroupParent: cgroupParent ?? '',
      sysctls: sysctls ?? {},
      securityContext: {
        ...LinuxSandboxSecurityContext.decode(empty),
        namespaceOptions: {
          ...NamespaceOption.decode(empty),
          network: mode(host?.network),
          pid: host?.pid ? NamespaceMode.NODE : NamespaceMode.CONTAINER,
          ipc: mode(host?.ipc),
        },
      },
    },
    ...rest,
  };
}

/** A complete container config that runs `command` of `image`. */
export function containerConfig(
  name: string,
  image: string,
  command: string[],
  options: Partial<ContainerConfig> = {},
): ContainerConfig {
  return {
    ...ContainerConfig.decode(empty),
    metadata: { ...ContainerMetadata.decode(empty), name },
    image: { ...ImageSpec.decode(empty), image },
    command,
    linux: {
      ...LinuxContainerConfig.decode(empty),
      securityContext: {
        ...LinuxContainerSecurityContext.decode(empty),
        namespaceOptions: { ...NamespaceOption.decode(empty), pid: NamespaceMode.CONTAINER },
      },
    },
    ...options,
  };
}

/** Stops and removes the pods, all unless `ids` are given, `parallel` at a time. */
export async function removePods(cri: Cri, ids?: string[], parallel = 8): Promise<void> {
  const left = ids ? [...ids] : (await cri.listPodSandbox()).items.map((pod) => pod.id);
  const one = async () => {
    for (let id = left.pop(); id !== undefined; id = left.pop()) {
      await cri.stopPodSandbox({ podSandboxId: id }, { timeoutMs: 120_000 });
      await cri.removePodSandbox({ podSandboxId: id }, { timeoutMs: 120_000 });
    }
  };
  await Promise.all(Array.from({ length: parallel }, one));
}
