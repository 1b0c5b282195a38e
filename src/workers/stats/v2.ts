/**
 * Reads the controllers of the unified hierarchy (Documentation/admin-guide/cgroup-v2.rst). A missing file means that
 * the controller is disabled.
 */
import { readdirSync } from 'node:fs';
import { deviceName } from './devices.ts';
import { isGone, readNumber, readNumbers, readText } from './files.ts';
import type { CpuLimits, CpuReading, DeviceReading, HugetlbReading, MemoryReading, PidsReading } from './reading.ts';

export function cpuV2(folder: string): CpuReading | undefined {
  const stat = readNumbers(`${folder}/cpu.stat`);
  const us = (name: string) => (stat.get(name) ?? 0n) * 1000n;
  if (!stat.has('usage_usec')) return undefined;
  return {
    usageNs: us('usage_usec'),
    userNs: us('user_usec'),
    systemNs: us('system_usec'),
    periods: stat.get('nr_periods') ?? 0n,
    throttledPeriods: stat.get('nr_throttled') ?? 0n,
    throttledNs: us('throttled_usec'),
  };
}

export function cpuLimitsV2(folder: string): CpuLimits | undefined {
  const weight = readNumber(`${folder}/cpu.weight`);
  const [quota, period] = (readText(`${folder}/cpu.max`) ?? '').trim().split(' ');
  if (weight === undefined || !period) return undefined;
  return {
    shares: sharesOfWeight(weight),
    periodUs: BigInt(period),
    quotaUs: quota === undefined || quota === 'max' ? undefined : BigInt(quota),
  };
}

/**
 * Inverts runc's linear conversion of cpu.shares to cpu.weight, (2, 1) to (262144, 10000). It is approximate: a caller
 * that has the original shares should prefer them.
 */
export function sharesOfWeight(weight: bigint): bigint {
  return weight <= 0n ? 0n : 2n + ((weight - 1n) * 262_142n) / 9999n;
}

export function memoryV2(folder: string): MemoryReading | undefined {
  const usage = readNumber(`${folder}/memory.current`);
  if (usage === undefined) return undefined;
  const stat = readNumbers(`${folder}/memory.stat`);
  const value = (name: string) => stat.get(name) ?? 0n;
  const inactive = value('inactive_file');
  const limit = readNumber(`${folder}/memory.max`);
  const swapMax = readNumber(`${folder}/memory.swap.max`);
  // runc writes the OCI reservation to memory.low, kubelet writes requests to memory.min.
  const low = readNumber(`${folder}/memory.low`) ?? 0n;
  const min = readNumber(`${folder}/memory.min`) ?? 0n;
  return {
    usage,
    workingSet: usage > inactive ? usage - inactive : 0n,
    rss: value('anon'),
    cache: value('file'),
    mappedFile: value('file_mapped'),
    // "kernel" is the sum of these, since Linux 5.18.
    kernel:
      stat.get('kernel') ??
      value('kernel_stack') + value('pagetables') + value('percpu') + value('sock') + value('slab'),
    swap: readNumber(`${folder}/memory.swap.current`),
    swapMax,
    peak: readNumber(`${folder}/memory.peak`),
    failures: readNumbers(`${folder}/memory.events`).get('max') ?? 0n,
    pageFaults: value('pgfault'),
    majorPageFaults: value('pgmajfault'),
    ownPageFaults: value('pgfault'),
    ownMajorPageFaults: value('pgmajfault'),
    limit,
    reservation: low > min ? low : min,
    swapLimit: limit !== undefined && swapMax !== undefined ? limit + swapMax : undefined,
  };
}

export function oomKillsV2(folder: string): bigint | undefined {
  return readNumbers(`${folder}/memory.events`).get('oom_kill');
}

const OPERATIONS = [
  ['Read', 'rbytes', 'rios'],
  ['Write', 'wbytes', 'wios'],
  ['Discard', 'dbytes', 'dios'],
] as const;

export function devicesV2(folder: string): DeviceReading[] {
  const devices: DeviceReading[] = [];
  for (const line of (readText(`${folder}/io.stat`) ?? '').split('\n')) {
    const [id = '', ...fields] = line.trim().split(' ');
    const [major, minor] = id.split(':').map(Number);
    if (major === undefined || minor === undefined || Number.isNaN(minor)) continue;
    const values = new Map(fields.map((field) => field.split('=', 2) as [string, string]));
    const value = (name: string) => BigInt(/^\d+$/.test(values.get(name) ?? '') ? (values.get(name) ?? 0) : 0);
    if (!values.has('rbytes')) continue; // a line with parameters of a cost model only
    devices.push({
      major,
      minor,
      device: deviceName(major, minor),
      operations: OPERATIONS.map(([operation, bytes, requests]) => ({
        operation,
        bytes: value(bytes),
        requests: value(requests),
      })),
    });
  }
  return devices;
}

export function pidsV2(folder: string): PidsReading | undefined {
  const threads = readNumber(`${folder}/pids.current`);
  return threads === undefined ? undefined : { threads, max: readNumber(`${folder}/pids.max`) };
}

export function hugetlbV2(folder: string): HugetlbReading[] {
  return hugePageSizes(folder, 'current').map((pageSize) => ({
    pageSize,
    usage: readNumber(`${folder}/hugetlb.${pageSize}.current`) ?? 0n,
  }));
}

/** The page sizes for which `folder` contains a file hugetlb.<size>.<suffix>. */
export function hugePageSizes(folder: string, suffix: string): string[] {
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch (error) {
    if (isGone(error)) return [];
    throw error;
  }
  return names
    .map((name) => /^hugetlb\.(\w+)\.(\w+)$/.exec(name))
    .filter((match) => match?.[2] === suffix)
    .map((match) => match?.[1] ?? '');
}
