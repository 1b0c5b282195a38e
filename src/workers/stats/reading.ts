/**
 * The result of one read of a cgroup, in the same shape for v1 and v2. Bytes, nanoseconds and counts are all bigint.
 */
import type { Psi } from './psi.ts';

export interface CpuReading {
  usageNs: bigint;
  userNs: bigint;
  systemNs: bigint;
  /** Enforcement periods, those of them in which the cgroup was throttled, and the time it was throttled. */
  periods: bigint;
  throttledPeriods: bigint;
  throttledNs: bigint;
}

export interface MemoryReading {
  usage: bigint;
  /** usage minus inactive_file, the page cache that was not used recently. kubelet evicts by this value. */
  workingSet: bigint;
  rss: bigint;
  cache: bigint;
  mappedFile: bigint;
  kernel: bigint;
  /** Undefined when the kernel does not count swap. */
  swap?: bigint;
  /** Limit of swap without memory; undefined when unlimited. */
  swapMax?: bigint;
  /** Highest usage; undefined on v2 before Linux 5.19. */
  peak?: bigint;
  /** How often usage reached the limit. */
  failures: bigint;
  pageFaults: bigint;
  majorPageFaults: bigint;
  /** Without the cgroups below; on v2 the same as `pageFaults` and `majorPageFaults`. */
  ownPageFaults: bigint;
  ownMajorPageFaults: bigint;
  /** Undefined when unlimited. */
  limit?: bigint;
  reservation?: bigint;
  /** Memory and swap together; undefined when unlimited, or when the kernel does not count swap. */
  swapLimit?: bigint;
}

export interface DeviceReading {
  major: number;
  minor: number;
  /** The kernel's name for it, prefixed with /dev/; "" when it has none. */
  device: string;
  /** Bytes and requests by operation: Read, Write, Discard; on v1 also Sync, Async, Total. */
  operations: { operation: string; bytes: bigint; requests: bigint }[];
}

export interface PidsReading {
  /** Tasks, threads included. */
  threads: bigint;
  /** Undefined when unlimited. */
  max?: bigint;
}

export interface HugetlbReading {
  /** The kernel's form: 2MB, 1GB. */
  pageSize: string;
  usage: bigint;
  /** Highest usage; only v1 has it. */
  peak?: bigint;
}

export interface CpuLimits {
  /** cpu.shares of v1; computed from cpu.weight on v2. */
  shares: bigint;
  periodUs: bigint;
  /** Undefined when unlimited. */
  quotaUs?: bigint;
}

export interface CgroupReading {
  /** Nanoseconds since the epoch. */
  timestamp: bigint;
  /**
   * Nanoseconds of CLOCK_MONOTONIC, which is one clock for all threads and has no steps: rates are computed from it.
   */
  tickNs: bigint;
  cpu?: CpuReading;
  memory?: MemoryReading;
  devices: DeviceReading[];
  pids?: PidsReading;
  hugetlb: HugetlbReading[];
  cpuLimits?: CpuLimits;
  oomKills?: bigint;
  psi: { cpu?: Psi; memory?: Psi; io?: Psi };
}
