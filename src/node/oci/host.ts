import type { Device } from './types.ts';

/** What the spec depends on outside the request. Read once at start by read-host.ts; plain data, so tests make up any host. */
export interface HostFacts {
  /** Node's name: x64, arm64, s390x, ppc64, riscv64, loong64, arm. */
  arch: string;
  /** As `uname -r` says it. */
  kernel: string;
  hostname: string;
  cgroupVersion: 1 | 2;
  cgroupDriver: 'systemd' | 'cgroupfs';
  /** nsdelegate and memory_recursiveprot, as far as the host's cgroup2 mount has them. */
  cgroupMountOptions: readonly string[];
  /** Can swap be limited? memory.swap.max (v2) or memory.memsw.limit_in_bytes (v1). */
  swapController: boolean;
  hugetlbController: boolean;
  /** The daemon's effective capabilities. */
  capabilities: readonly string[];
  /** The lowest oom_score_adj that a process of the daemon may take: -1000 with CAP_SYS_RESOURCE, else the daemon's own. */
  lowestOomScoreAdj: number;
  seccomp: boolean;
  /** The kernel enforces AppArmor and apparmor_parser is there to load profiles. */
  apparmor: boolean;
  selinux: boolean;
  /** Device nodes under /dev, for privileged containers. Hot-plugging outdates them; see read-devices.ts. */
  devices: readonly Device[];
}

/** What one OCI runtime can do; by `runc features` and the kernel. */
export interface RuntimeFeatures {
  /** The mount option `rro`, on a kernel with mount_setattr(2). */
  recursiveReadOnly: boolean;
  /** Idmapped mounts (`linux.mountExtensions.idmap`). */
  idmap: boolean;
}

export const NO_FEATURES: RuntimeFeatures = { recursiveReadOnly: false, idmap: false };

/** Is the kernel at least major.minor? */
export function kernelAtLeast(kernel: string, major: number, minor: number): boolean {
  const [a = 0, b = 0] = kernel.split('.').map((part) => Number.parseInt(part, 10));
  return a > major || (a === major && b >= minor);
}

/**
 * Reads the answer of `runc features` (https://github.com/opencontainers/runtime-spec/blob/main/features.md). Throws SyntaxError where it
 * is no JSON; runtimes without the command have neither feature as far as we can tell ({@link NO_FEATURES}).
 */
export function parseRuntimeFeatures(text: string, kernel: string): RuntimeFeatures {
  const features = JSON.parse(text) as {
    mountOptions?: string[];
    linux?: { mountExtensions?: { idmap?: { enabled?: boolean } } };
  };
  return {
    recursiveReadOnly: kernelAtLeast(kernel, 5, 12) && (features.mountOptions ?? []).includes('rro'),
    idmap: kernelAtLeast(kernel, 5, 12) && features.linux?.mountExtensions?.idmap?.enabled === true,
  };
}
