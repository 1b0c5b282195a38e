/** Properties of the host that specs depend on. read-host.ts reads them once, at start; tests make up any host. */
export interface HostFacts {
  /** process.arch: x64, arm64, s390x, ppc64, riscv64, loong64, arm. */
  arch: string;
  /** Release, as `uname -r` prints it. */
  kernel: string;
  hostname: string;
  /** /proc/sys/kernel/random/boot_id: differs after each reboot. */
  bootId: string;
  cgroupVersion: 1 | 2;
  cgroupDriver: 'systemd' | 'cgroupfs';
  /** Those of nsdelegate and memory_recursiveprot that the host's cgroup2 mount has. */
  cgroupMountOptions: readonly string[];
  /** Whether swap can be limited: memory.swap.max (v2) or memory.memsw.limit_in_bytes (v1) exists. */
  swapController: boolean;
  hugetlbController: boolean;
  /** The daemon's effective capabilities. */
  capabilities: readonly string[];
  /** Lowest oom_score_adj that the daemon may set: -1000 with CAP_SYS_RESOURCE, else the daemon's own value. */
  lowestOomScoreAdj: number;
  seccomp: boolean;
  /** Whether AppArmor is enabled and apparmor_parser is installed. */
  apparmor: boolean;
  selinux: boolean;
}

/** Features of one OCI runtime, from `runc features` and the kernel's version. */
export interface RuntimeFeatures {
  /** The mount option `rro`; needs mount_setattr(2), Linux 5.12. */
  recursiveReadOnly: boolean;
  /**
   * Idmapped mounts of volumes and of a root file system's layers (`linux.mountExtensions.idmap`); overlayfs takes
   * idmapped layers from Linux 5.19 on.
   */
  idmap: boolean;
}

export const NO_FEATURES: RuntimeFeatures = { recursiveReadOnly: false, idmap: false };

/** Whether a kernel release is at least major.minor. */
export function kernelAtLeast(kernel: string, major: number, minor: number): boolean {
  const [a = 0, b = 0] = kernel.split('.').map((part) => Number.parseInt(part, 10));
  return a > major || (a === major && b >= minor);
}

/**
 * Parses the output of `runc features`. Throws SyntaxError when it is not JSON.
 * Source: https://github.com/opencontainers/runtime-spec/blob/main/features.md
 */
export function parseRuntimeFeatures(text: string, kernel: string): RuntimeFeatures {
  const features = JSON.parse(text) as {
    mountOptions?: string[];
    linux?: { mountExtensions?: { idmap?: { enabled?: boolean } } };
  };
  return {
    recursiveReadOnly: kernelAtLeast(kernel, 5, 12) && (features.mountOptions ?? []).includes('rro'),
    idmap: kernelAtLeast(kernel, 5, 19) && features.linux?.mountExtensions?.idmap?.enabled === true,
  };
}
