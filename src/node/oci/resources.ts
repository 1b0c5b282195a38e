import type { LinuxContainerResources } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import { int64 } from './encode.ts';
import type { HostFacts } from './host.ts';
import type { Resources } from './types.ts';

type Limits = Pick<HostFacts, 'cgroupVersion' | 'swapController' | 'hugetlbController'>;

/**
 * Converts CRI's limits to `linux.resources`, for specs and for Task.Update. Zero and "" mean "not set". Without a swap
 * limit, memory.swap (memory plus swap) is the memory limit, so that a container cannot swap. Huge page limits are
 * omitted when the host has no hugetlb controller. Throws INVALID_REQUEST for `unified` on cgroup v1, which no runtime
 * accepts.
 */
export function toLinuxResources(asked: LinuxContainerResources | undefined, host: Limits): Resources {
  if (asked === undefined) return {};
  const resources: Resources = {};
  const cpu: NonNullable<Resources['cpu']> = {};
  if (asked.cpuShares !== 0n) cpu.shares = int64(asked.cpuShares);
  if (asked.cpuQuota !== 0n) cpu.quota = int64(asked.cpuQuota);
  if (asked.cpuPeriod !== 0n) cpu.period = int64(asked.cpuPeriod);
  if (asked.cpusetCpus !== '') cpu.cpus = asked.cpusetCpus;
  if (asked.cpusetMems !== '') cpu.mems = asked.cpusetMems;
  if (Object.keys(cpu).length > 0) resources.cpu = cpu;

  const memory: NonNullable<Resources['memory']> = {};
  if (asked.memoryLimitInBytes !== 0n) memory.limit = int64(asked.memoryLimitInBytes);
  const swap = asked.memorySwapLimitInBytes || asked.memoryLimitInBytes;
  if (swap !== 0n && host.swapController) memory.swap = int64(swap);
  if (Object.keys(memory).length > 0) resources.memory = memory;

  if (asked.hugepageLimits.length > 0 && host.hugetlbController) {
    resources.hugepageLimits = asked.hugepageLimits.map(({ pageSize, limit }) => ({ pageSize, limit: int64(limit) }));
  }
  if (Object.keys(asked.unified).length > 0) {
    if (host.cgroupVersion === 1) {
      throw new SluiceError(
        'INVALID_REQUEST',
        'linux.resources.unified: this host has cgroup v1, but unified needs cgroup v2',
      );
    }
    resources.unified = { ...asked.unified };
  }
  return resources;
}

/**
 * The resources after UpdateContainerResources: a field that is zero or "" in the update keeps its value; huge page
 * limits are merged by page size, `unified` by file name.
 */
export function mergeResources(
  old: LinuxContainerResources | undefined,
  update: LinuxContainerResources,
): LinuxContainerResources {
  if (old === undefined) return update;
  const pages = new Map([...old.hugepageLimits, ...update.hugepageLimits].map((limit) => [limit.pageSize, limit]));
  return {
    cpuPeriod: update.cpuPeriod || old.cpuPeriod,
    cpuQuota: update.cpuQuota || old.cpuQuota,
    cpuShares: update.cpuShares || old.cpuShares,
    memoryLimitInBytes: update.memoryLimitInBytes || old.memoryLimitInBytes,
    oomScoreAdj: update.oomScoreAdj || old.oomScoreAdj,
    cpusetCpus: update.cpusetCpus || old.cpusetCpus,
    cpusetMems: update.cpusetMems || old.cpusetMems,
    hugepageLimits: [...pages.values()],
    unified: { ...old.unified, ...update.unified },
    memorySwapLimitInBytes: update.memorySwapLimitInBytes || keptSwap(old, update),
  };
}

/**
 * The swap limit after an update that has none. It counts memory plus swap and must not be below the memory limit. A
 * swap limit that equals the old memory limit means "no swap" (kubelet sends it so) and becomes the new memory limit;
 * containerd keeps it, so the runtime refuses to raise the memory limit.
 */
function keptSwap(old: LinuxContainerResources, update: LinuxContainerResources): bigint {
  const { memorySwapLimitInBytes: swap, memoryLimitInBytes: limit } = old;
  return update.memoryLimitInBytes !== 0n && swap === limit ? update.memoryLimitInBytes : swap;
}
