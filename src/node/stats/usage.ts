/** Converts readings to the messages that ContainerStats and PodSandboxStats share. */
import type {
  CpuUsage,
  IoUsage,
  MemoryUsage,
  NetworkInterfaceUsage,
  NetworkUsage,
  PsiStats,
  SwapUsage,
  UInt64Value,
} from '../../../proto/gen/cri.ts';
import type { InterfaceReading } from '../../workers/stats/network.ts';
import type { Psi } from '../../workers/stats/psi.ts';
import type { CgroupReading, MemoryReading } from '../../workers/stats/reading.ts';

export function uint64(value: bigint): UInt64Value;
export function uint64(value: bigint | undefined): UInt64Value | undefined;
export function uint64(value: bigint | undefined): UInt64Value | undefined {
  return value === undefined ? undefined : { value };
}

export function cpuUsage({ timestamp, cpu, psi }: CgroupReading, nanoCores: bigint | undefined): CpuUsage | undefined {
  if (!cpu) return undefined;
  return {
    timestamp,
    usageCoreNanoSeconds: uint64(cpu.usageNs),
    usageNanoCores: uint64(nanoCores),
    psi: psiStats(psi.cpu),
  };
}

export function memoryUsage({ timestamp, memory, psi }: CgroupReading): MemoryUsage | undefined {
  if (!memory) return undefined;
  return {
    timestamp,
    workingSetBytes: uint64(memory.workingSet),
    // The kubelet reads a missing value as "no limit".
    availableBytes: uint64(memory.limit === undefined ? undefined : less(memory.limit, memory.workingSet)),
    usageBytes: uint64(memory.usage),
    rssBytes: uint64(memory.rss),
    pageFaults: uint64(memory.pageFaults),
    majorPageFaults: uint64(memory.majorPageFaults),
    psi: psiStats(psi.memory),
  };
}

export function swapUsage(timestamp: bigint, memory: MemoryReading | undefined): SwapUsage | undefined {
  if (memory?.swap === undefined) return undefined;
  return {
    timestamp,
    swapAvailableBytes: uint64(memory.swapMax === undefined ? undefined : less(memory.swapMax, memory.swap)),
    swapUsageBytes: uint64(memory.swap),
  };
}

/** CRI's IoUsage has only pressure. */
export function ioUsage({ timestamp, psi }: CgroupReading): IoUsage | undefined {
  return psi.io ? { timestamp, psi: psiStats(psi.io) } : undefined;
}

/** The default interface is `eth0`, the usual name of a pod's CNI interface, or else the first one. */
export function networkUsage(timestamp: bigint, interfaces: InterfaceReading[] | undefined): NetworkUsage | undefined {
  if (!interfaces) return undefined;
  const all = interfaces.map(
    (one): NetworkInterfaceUsage => ({
      name: one.name,
      rxBytes: uint64(one.rxBytes),
      rxErrors: uint64(one.rxErrors),
      txBytes: uint64(one.txBytes),
      txErrors: uint64(one.txErrors),
    }),
  );
  return { timestamp, defaultInterface: all.find(({ name }) => name === 'eth0') ?? all[0], interfaces: all };
}

function psiStats(psi: Psi | undefined): PsiStats | undefined {
  if (!psi) return undefined;
  const data = ({ totalNs, avg10, avg60, avg300 }: Psi['some']) => ({
    Total: totalNs,
    Avg10: avg10,
    Avg60: avg60,
    Avg300: avg300,
  });
  return { Full: data(psi.full), Some: data(psi.some) };
}

const less = (a: bigint, b: bigint) => (a > b ? a - b : 0n);
