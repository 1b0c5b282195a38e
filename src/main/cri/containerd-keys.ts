/**
 * Keys of the verbose answers that scripts read with containerd, beside Sluice's own: `crictl info | jq
 * .config.containerd.defaultRuntimeName`, `… | grep SystemdCgroup` and the like. Names and nesting are containerd's.
 */
import type { Config, RuntimeConfig } from '../../node/config/config.ts';

/** Every container is run by the same kind of shim. */
export const RUNTIME_TYPE = 'io.containerd.runc.v2';

/** `config` of Status: the configuration, with containerd's names for what it has as well. */
export function configInfo(
  config: Config,
  { systemd, snapshotter }: { systemd: boolean; snapshotter: string },
): object {
  const runtimes = Object.entries(config.runtimes).map(([name, runtime]) => [
    name,
    {
      runtimeType: RUNTIME_TYPE,
      runtimePath: runtime.shim,
      snapshotter: '',
      sandboxer: 'podsandbox',
      PodAnnotations: runtime.pod_annotations,
      ContainerAnnotations: runtime.container_annotations,
      privileged_without_host_devices: runtime.privileged_without_host_devices,
      options: { BinaryName: runtime.binary, Root: runtime.runtime_root, SystemdCgroup: systemd },
    },
  ]);
  const { cni, images } = config;
  return {
    ...config,
    cni: { ...cni, binDir: cni.bin_dirs[0] ?? '', binDirs: cni.bin_dirs, confDir: cni.conf_dir, maxConfNum: 1 },
    containerd: {
      defaultRuntimeName: config.default_runtime,
      snapshotter,
      runtimes: Object.fromEntries(runtimes),
    },
    containerdEndpoint: config.socket,
    containerdRootDir: config.root,
    registry: { configPath: images.registry_config },
    rootDir: config.root,
    sandboxImage: images.sandbox_image,
    stateDir: config.state,
    systemdCgroup: systemd,
  };
}

/** `runtimeOptions` of PodSandboxStatus and ContainerStatus. */
export function runtimeOptions(runtime: RuntimeConfig | undefined, systemd: boolean): object {
  if (!runtime) return {};
  return { binary_name: runtime.binary, root: runtime.runtime_root, systemd_cgroup: systemd, shim: runtime.shim };
}
