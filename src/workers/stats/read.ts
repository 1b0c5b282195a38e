import { nowNs } from '../../clock.ts';
import { type CgroupPaths, isEmpty } from './cgroups.ts';
import { readPsi } from './psi.ts';
import type { CgroupReading } from './reading.ts';
import * as v1 from './v1.ts';
import * as v2 from './v2.ts';

/**
 * Reads a cgroup. Each controller is read from v1 where it is mounted there, otherwise from the unified hierarchy,
 * which covers hybrid systems. `full` adds devices, hugepages and limits, which only the metrics need. Undefined when
 * the cgroup is gone.
 */
export function readCgroup(paths: CgroupPaths, full: boolean): CgroupReading | undefined {
  if (isEmpty(paths)) return undefined;
  const { cpu, cpuacct, memory, blkio, pids, hugetlb } = paths.v1;
  const { unified } = paths;
  const pick = <T>(folder: string | undefined, old: (f: string) => T, young: (f: string) => T): T | undefined =>
    folder !== undefined ? old(folder) : unified !== undefined ? young(unified) : undefined;

  const reading: CgroupReading = {
    timestamp: nowNs(),
    tickNs: process.hrtime.bigint(),
    cpu: pick(cpuacct, (folder) => v1.cpuV1(folder, cpu), v2.cpuV2),
    memory: pick(memory, v1.memoryV1, v2.memoryV2),
    pids: pick(pids, v1.pidsV1, v2.pidsV2),
    devices: full ? (pick(blkio, v1.devicesV1, v2.devicesV2) ?? []) : [],
    hugetlb: full ? (pick(hugetlb, v1.hugetlbV1, v2.hugetlbV2) ?? []) : [],
    cpuLimits: full ? pick(cpu, v1.cpuLimitsV1, v2.cpuLimitsV2) : undefined,
    oomKills: full ? pick(memory, v1.oomKillsV1, v2.oomKillsV2) : undefined,
    psi:
      unified === undefined
        ? {}
        : { cpu: readPsi(unified, 'cpu'), memory: readPsi(unified, 'memory'), io: readPsi(unified, 'io') },
  };
  // When the folders vanish between two reads, the rest is of no use.
  return reading.cpu || reading.memory || reading.pids ? reading : undefined;
}

/** How many processes of the cgroup the OOM killer has killed; undefined when the counter is gone or absent. */
export function readOomKills(paths: CgroupPaths): bigint | undefined {
  const { memory } = paths.v1;
  if (memory !== undefined) return v1.oomKillsV1(memory);
  return paths.unified === undefined ? undefined : v2.oomKillsV2(paths.unified);
}
