import type { CgroupReading, CpuReading, MemoryReading } from '../../workers/stats/reading.ts';

/**
 * Sums the counters of a pod's pause process and containers, for a pod without its own cgroup (crictl pods without a
 * cgroup_parent). Limits, pressure and I/O are not additive and are omitted.
 */
export function sumReadings(readings: CgroupReading[]): CgroupReading | undefined {
  const last = readings.at(-1);
  if (!last) return undefined;
  const present = <T>(pick: (reading: CgroupReading) => T | undefined): T[] =>
    readings.map(pick).filter((value) => value !== undefined);
  const cpus = present(({ cpu }) => cpu);
  const memories = present(({ memory }) => memory);
  return {
    timestamp: last.timestamp,
    tickNs: last.tickNs,
    cpu: cpus.length === 0 ? undefined : cpus.reduce(addCpu),
    memory: memories.length === 0 ? undefined : memories.reduce(addMemory),
    devices: [],
    hugetlb: [],
    psi: {},
  };
}

function addCpu(a: CpuReading, b: CpuReading): CpuReading {
  return {
    usageNs: a.usageNs + b.usageNs,
    userNs: a.userNs + b.userNs,
    systemNs: a.systemNs + b.systemNs,
    periods: a.periods + b.periods,
    throttledPeriods: a.throttledPeriods + b.throttledPeriods,
    throttledNs: a.throttledNs + b.throttledNs,
  };
}

function addMemory(a: MemoryReading, b: MemoryReading): MemoryReading {
  return {
    usage: a.usage + b.usage,
    workingSet: a.workingSet + b.workingSet,
    rss: a.rss + b.rss,
    cache: a.cache + b.cache,
    mappedFile: a.mappedFile + b.mappedFile,
    kernel: a.kernel + b.kernel,
    swap: a.swap === undefined && b.swap === undefined ? undefined : (a.swap ?? 0n) + (b.swap ?? 0n),
    failures: a.failures + b.failures,
    pageFaults: a.pageFaults + b.pageFaults,
    majorPageFaults: a.majorPageFaults + b.majorPageFaults,
    ownPageFaults: a.ownPageFaults + b.ownPageFaults,
    ownMajorPageFaults: a.ownMajorPageFaults + b.ownMajorPageFaults,
  };
}
