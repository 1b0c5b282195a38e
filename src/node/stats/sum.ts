import type { CgroupReading, CpuReading, MemoryReading } from '../../workers/stats/reading.ts';

/**
 * Several cgroups as one, for a pod that has none of its own (crictl pods without a cgroup_parent): the counters of its pause
 * process and containers together. Limits and pressure do not add up and are left out.
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
