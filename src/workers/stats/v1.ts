/** Reads the controllers of cgroup v1 (Documentation/admin-guide/cgroup-v1/), each of which has its own folder. */
import { deviceName } from './devices.ts';
import { readNumber, readNumbers, readText } from './files.ts';
import type { CpuLimits, CpuReading, DeviceReading, HugetlbReading, MemoryReading, PidsReading } from './reading.ts';
import { hugePageSizes } from './v2.ts';

/** cpuacct.stat counts in USER_HZ, which is 100 on every Linux architecture that Node supports. */
const NS_PER_TICK = 10_000_000n;

/** v1 shows "no limit" as the largest page-aligned number. */
const UNLIMITED = 1n << 62n;
const limited = (limit: bigint | undefined) => (limit !== undefined && limit < UNLIMITED ? limit : undefined);

/** `cpu` is the folder of the cpu controller, which counts throttling; `cpuacct` counts the usage. */
export function cpuV1(cpuacct: string, cpu: string | undefined): CpuReading | undefined {
  const usageNs = readNumber(`${cpuacct}/cpuacct.usage`);
  if (usageNs === undefined) return undefined;
  const ticks = readNumbers(`${cpuacct}/cpuacct.stat`);
  const stat = cpu === undefined ? new Map<string, bigint>() : readNumbers(`${cpu}/cpu.stat`);
  return {
    usageNs,
    userNs: readNumber(`${cpuacct}/cpuacct.usage_user`) ?? (ticks.get('user') ?? 0n) * NS_PER_TICK,
    systemNs: readNumber(`${cpuacct}/cpuacct.usage_sys`) ?? (ticks.get('system') ?? 0n) * NS_PER_TICK,
    periods: stat.get('nr_periods') ?? 0n,
    throttledPeriods: stat.get('nr_throttled') ?? 0n,
    throttledNs: stat.get('throttled_time') ?? 0n,
  };
}

export function cpuLimitsV1(folder: string): CpuLimits | undefined {
  const shares = readNumber(`${folder}/cpu.shares`);
  if (shares === undefined) return undefined;
  const quota = readNumber(`${folder}/cpu.cfs_quota_us`);
  return {
    shares,
    // Kernels without CFS bandwidth control lack this file; container tools then assume a period of 100 ms.
    periodUs: readNumber(`${folder}/cpu.cfs_period_us`) ?? 100_000n,
    quotaUs: quota !== undefined && quota > 0n ? quota : undefined,
  };
}

export function memoryV1(folder: string): MemoryReading | undefined {
  const usage = readNumber(`${folder}/memory.usage_in_bytes`);
  if (usage === undefined) return undefined;
  const stat = readNumbers(`${folder}/memory.stat`);
  // total_* include the cgroups below; they are absent where use_hierarchy is off.
  const value = (name: string) => stat.get(`total_${name}`) ?? stat.get(name) ?? 0n;
  const own = (name: string) => stat.get(name) ?? 0n;
  const inactive = value('inactive_file');
  const limit = limited(readNumber(`${folder}/memory.limit_in_bytes`));
  const swapLimit = limited(readNumber(`${folder}/memory.memsw.limit_in_bytes`));
  return {
    usage,
    workingSet: usage > inactive ? usage - inactive : 0n,
    rss: value('rss'),
    cache: value('cache'),
    mappedFile: value('mapped_file'),
    kernel: readNumber(`${folder}/memory.kmem.usage_in_bytes`) ?? 0n,
    swap: stat.get('total_swap') ?? stat.get('swap'),
    swapMax: limit !== undefined && swapLimit !== undefined ? swapLimit - limit : undefined,
    peak: readNumber(`${folder}/memory.max_usage_in_bytes`),
    failures: readNumber(`${folder}/memory.failcnt`) ?? 0n,
    pageFaults: value('pgfault'),
    majorPageFaults: value('pgmajfault'),
    ownPageFaults: own('pgfault'),
    ownMajorPageFaults: own('pgmajfault'),
    limit,
    reservation: limited(readNumber(`${folder}/memory.soft_limit_in_bytes`)),
    swapLimit,
  };
}

export function oomKillsV1(folder: string): bigint | undefined {
  return readNumbers(`${folder}/memory.oom_control`).get('oom_kill');
}

/**
 * The throttle files count the I/O of every scheduler; the recursive ones exist since 4.11. The files of BFQ and CFQ
 * serve kernels without blk-throttle.
 */
const IO_FILES = ['throttle.io_%s_recursive', 'throttle.io_%s', 'bfq.io_%s_recursive', 'io_%s_recursive'];

export function devicesV1(folder: string): DeviceReading[] {
  for (const name of IO_FILES) {
    const bytes = readText(`${folder}/blkio.${name.replace('%s', 'service_bytes')}`);
    if (bytes === undefined) continue;
    const requests = readText(`${folder}/blkio.${name.replace('%s', 'serviced')}`) ?? '';
    const devices = parseDevicesV1(bytes, requests);
    if (devices.length > 0) return devices;
  }
  return [];
}

/** Parses lines like `8:0 Read 4096`; the last line, a total of all devices, is ignored. */
function parseDevicesV1(bytes: string, requests: string): DeviceReading[] {
  const devices = new Map<string, DeviceReading>();
  for (const [text, field] of [
    [bytes, 'bytes'],
    [requests, 'requests'],
  ] as const) {
    for (const line of text.split('\n')) {
      const match = /^(\d+):(\d+) (\w+) (\d+)$/.exec(line);
      if (!match) continue;
      const [, major = '', minor = '', operation = '', count = ''] = match;
      const id = `${major}:${minor}`;
      let device = devices.get(id);
      if (!device) {
        const [x, y] = [Number(major), Number(minor)];
        device = { major: x, minor: y, device: deviceName(x, y), operations: [] };
        devices.set(id, device);
      }
      let entry = device.operations.find((other) => other.operation === operation);
      if (!entry) {
        entry = { operation, bytes: 0n, requests: 0n };
        device.operations.push(entry);
      }
      entry[field] = BigInt(count);
    }
  }
  return [...devices.values()];
}

export function pidsV1(folder: string): PidsReading | undefined {
  const threads = readNumber(`${folder}/pids.current`);
  return threads === undefined ? undefined : { threads, max: readNumber(`${folder}/pids.max`) };
}

export function hugetlbV1(folder: string): HugetlbReading[] {
  return hugePageSizes(folder, 'usage_in_bytes')
    .filter((pageSize) => !pageSize.endsWith('rsvd'))
    .map((pageSize) => ({
      pageSize,
      usage: readNumber(`${folder}/hugetlb.${pageSize}.usage_in_bytes`) ?? 0n,
      peak: readNumber(`${folder}/hugetlb.${pageSize}.max_usage_in_bytes`),
    }));
}
