/** What one look at a cgroup gives, in the same shape for v1 and v2. Bytes, nanoseconds and counts, all as bigint. */
import type { Psi } from './psi.ts';

export interface CpuReading {
  usageNs: bigint;
  userNs: bigint;
  systemNs: bigint;
  /** Enforcement intervals in all, those in which the cgroup was throttled, and for how long. */
  periods: bigint;
  throttledPeriods: bigint;
  throttledNs: bigint;
}

export interface MemoryReading {
  usage: bigint;
  /** usage less the file cache that nobody has touched lately: what the kubelet evicts by. */
  workingSet: bigint;
  rss: bigint;
  cache: bigint;
  mappedFile: bigint;
  kernel: bigint;
  /** Undefined: the kernel does not count it. */
  swap?: bigint;
  /** Limit of swap alone; undefined: unlimited. */
  swapMax?: bigint;
  /** Highest usage; undefined before kernel 5.19 on v2. */
  peak?: bigint;
  /** How often the limit was hit. */
  failures: bigint;
  pageFaults: bigint;
  majorPageFaults: bigint;
  /** Without the cgroups below; the same as above on v2. */
  ownPageFaults: bigint;
  ownMajorPageFaults: bigint;
  /** Undefined: unlimited. */
  limit?: bigint;
  reservation?: bigint;
  /** Memory and swap together; undefined: unlimited, or the kernel does not count swap. */
  swapLimit?: bigint;
}

export interface DeviceReading {
  major: number;
  minor: number;
  /** As the kernel names it, with /dev before it; "" when it has no name. */
  device: string;
  /** By operation (Read, Write, Discard; on v1 also Sync, Async, Total): bytes and requests. */
  operations: { operation: string; bytes: bigint; requests: bigint }[];
}

export interface PidsReading {
  /** Tasks, threads included. */
  threads: bigint;
  /** Undefined: unlimited. */
  max?: bigint;
}

export interface HugetlbReading {
  /** As the kernel writes it: 2MB, 1GB. */
  pageSize: string;
  usage: bigint;
  /** Highest usage; v1 alone counts it. */
  peak?: bigint;
}

export interface CpuLimits {
  /** v1's measure; computed from the weight on v2. */
  shares: bigint;
  periodUs: bigint;
  /** Undefined: unlimited. */
  quotaUs?: bigint;
}

export interface CgroupReading {
  /** Nanoseconds since the epoch. */
  timestamp: bigint;
  cpu?: CpuReading;
  memory?: MemoryReading;
  devices: DeviceReading[];
  pids?: PidsReading;
  hugetlb: HugetlbReading[];
  cpuLimits?: CpuLimits;
  oomKills?: bigint;
  psi: { cpu?: Psi; memory?: Psi; io?: Psi };
}
