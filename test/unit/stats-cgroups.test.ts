import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import {
  type CgroupMounts,
  cgroupsOfParent,
  cgroupsOfSpec,
  expandSlice,
  parseCgroupMounts,
  parseProcessCgroups,
} from '../../src/workers/stats/cgroups.ts';
import { readDisk, readFilesystem } from '../../src/workers/stats/disk.ts';
import { parseNetDev } from '../../src/workers/stats/network.ts';
import { parseMaxOpenFiles, pidsIn } from '../../src/workers/stats/processes.ts';
import { parsePsi } from '../../src/workers/stats/psi.ts';
import { readCgroup, readOomKills } from '../../src/workers/stats/read.ts';
import { sharesOfWeight } from '../../src/workers/stats/v2.ts';

const root = mkdtempSync(join(tmpdir(), 'sluice-stats-'));
after(() => rmSync(root, { recursive: true }));

/** Writes a tree of files below a folder of this test, and returns the folder. */
function tree(name: string, files: Record<string, string>): string {
  for (const [path, text] of Object.entries(files)) {
    const file = join(root, name, path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, text);
  }
  return join(root, name);
}

test('mounts: separate and joint controllers, hybrid, and two mounts of one hierarchy', () => {
  const mounts = parseCgroupMounts(`22 28 0:20 / /proc rw - proc proc rw
30 28 0:26 / /mnt/cg rw - cgroup cgroup rw,memory
31 28 0:26 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory
32 28 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:10 - cgroup cgroup rw,cpu,cpuacct
33 28 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/systemd/agent,name=systemd
34 28 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
35 28 0:26 / /var/x\\040y/memory rw - cgroup cgroup rw,memory
`);
  const at = (mountpoint: string) => ({ mountpoint, root: '/' });
  assert.deepEqual(mounts, {
    v1: {
      memory: at('/sys/fs/cgroup/memory'),
      cpu: at('/sys/fs/cgroup/cpu,cpuacct'),
      cpuacct: at('/sys/fs/cgroup/cpu,cpuacct'),
      'name=systemd': at('/sys/fs/cgroup/systemd'),
    },
    unified: at('/sys/fs/cgroup/unified'),
  } satisfies CgroupMounts);
});

const HYBRID: CgroupMounts = {
  v1: {
    memory: { mountpoint: '/sys/fs/cgroup/memory', root: '/' },
    cpu: { mountpoint: '/sys/fs/cgroup/cpu,cpuacct', root: '/' },
    cpuacct: { mountpoint: '/sys/fs/cgroup/cpu,cpuacct', root: '/' },
    'name=systemd': { mountpoint: '/sys/fs/cgroup/systemd', root: '/' },
  },
  unified: { mountpoint: '/sys/fs/cgroup/unified', root: '/' },
};

test('a process on v1, on hybrid and on v2', () => {
  const text = '12:cpu,cpuacct:/a\n4:memory:/kubepods/x:y\n3:pids:/a\n1:name=systemd:/s\n0::/u\n';
  assert.deepEqual(parseProcessCgroups(text, HYBRID), {
    v1: {
      cpu: '/sys/fs/cgroup/cpu,cpuacct/a',
      cpuacct: '/sys/fs/cgroup/cpu,cpuacct/a',
      memory: '/sys/fs/cgroup/memory/kubepods/x:y',
      'name=systemd': '/sys/fs/cgroup/systemd/s',
    },
    unified: '/sys/fs/cgroup/unified/u',
  });
  const v2: CgroupMounts = { v1: {}, unified: { mountpoint: '/sys/fs/cgroup', root: '/' } };
  assert.deepEqual(parseProcessCgroups('0::/kubepods.slice/a.scope\n', v2), {
    v1: {},
    unified: '/sys/fs/cgroup/kubepods.slice/a.scope',
  });
  // In a container without a cgroup namespace, the mount shows the container's own cgroup as its root.
  const nested: CgroupMounts = { v1: {}, unified: { mountpoint: '/sys/fs/cgroup', root: '/docker/abc' } };
  assert.equal(parseProcessCgroups('0::/docker/abc/pod\n', nested).unified, '/sys/fs/cgroup/pod');
  assert.equal(parseProcessCgroups('0::/docker/abcdef\n', nested).unified, '/sys/fs/cgroup/docker/abcdef');
});

test('slices and spec paths, by both drivers', () => {
  assert.equal(
    expandSlice('kubepods-burstable-pod1_2.slice'),
    '/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice',
  );
  assert.equal(expandSlice('/x.slice/system.slice'), '/system.slice');
  assert.equal(expandSlice('-.slice'), '/');

  const unified = tree('drivers', {
    'kubepods/pod1/c1/cgroup.procs': '',
    'kubepods.slice/kubepods-pod1.slice/cri-c1.scope/cgroup.procs': '',
    'system.slice/c2.scope/cgroup.procs': '',
  });
  const mounts: CgroupMounts = { v1: {}, unified: { mountpoint: unified, root: '/' } };
  const at = (path: string) => ({ v1: {}, unified: join(unified, path) });
  assert.deepEqual(cgroupsOfSpec('/kubepods/pod1/c1', mounts), at('kubepods/pod1/c1'));
  assert.deepEqual(
    cgroupsOfSpec('kubepods-pod1.slice:cri:c1', mounts),
    at('kubepods.slice/kubepods-pod1.slice/cri-c1.scope'),
  );
  assert.deepEqual(cgroupsOfSpec('::c2', mounts), at('system.slice/c2.scope'));
  assert.deepEqual(cgroupsOfSpec('/gone', mounts), { v1: {} });
  assert.deepEqual(cgroupsOfParent('/kubepods/pod1', mounts), at('kubepods/pod1'));
  assert.deepEqual(cgroupsOfParent('kubepods-pod1.slice', mounts), at('kubepods.slice/kubepods-pod1.slice'));
  assert.deepEqual(
    cgroupsOfParent('/kubepods.slice/kubepods-pod1.slice', mounts),
    at('kubepods.slice/kubepods-pod1.slice'),
  );
});

/** As kernel 6.8 shows a container with limits. */
const V2 = {
  'cpu.stat':
    'usage_usec 2500000\nuser_usec 1500000\nsystem_usec 1000000\nnice_usec 0\nnr_periods 40\nnr_throttled 3\nthrottled_usec 70000\nnr_bursts 0\nburst_usec 0\n',
  'cpu.weight': '20\n',
  'cpu.max': '20000 100000\n',
  'cpu.pressure':
    'some avg10=1.50 avg60=0.25 avg300=0.05 total=1234567\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=234567\n',
  'memory.current': '50000000\n',
  'memory.peak': '60000000\n',
  'memory.max': '134217728\n',
  'memory.low': '0\n',
  'memory.min': '33554432\n',
  'memory.swap.current': '4096\n',
  'memory.swap.max': '0\n',
  'memory.stat':
    'anon 20000000\nfile 25000000\nkernel 3000000\nkernel_stack 98304\npagetables 409600\nfile_mapped 8000000\ninactive_anon 0\nactive_anon 20000000\ninactive_file 10000000\nactive_file 15000000\npgfault 9000\npgmajfault 12\n',
  'memory.events': 'low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n',
  'memory.pressure': 'some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n',
  'io.stat': '7:999 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n8:16 cost.usage=1\n',
  'io.pressure':
    'some avg10=0.00 avg60=0.00 avg300=0.00 total=5000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=4000\n',
  'pids.current': '11\n',
  'pids.max': 'max\n',
  'hugetlb.2MB.current': '4194304\n',
  'hugetlb.2MB.max': 'max\n',
  'hugetlb.2MB.rsvd.current': '0\n',
  'hugetlb.1GB.current': '0\n',
  'cgroup.procs': '1\n2\n',
};

test('a cgroup on v2', () => {
  const reading = readCgroup({ v1: {}, unified: tree('v2', V2) }, true);
  assert.ok(reading);
  const { timestamp, tickNs, ...rest } = reading;
  assert.ok(process.hrtime.bigint() - tickNs < 5_000_000_000n);
  assert.ok(Math.abs(Number(timestamp / 1_000_000n) - Date.now()) < 5000);
  assert.deepEqual(rest, {
    cpu: {
      usageNs: 2_500_000_000n,
      userNs: 1_500_000_000n,
      systemNs: 1_000_000_000n,
      periods: 40n,
      throttledPeriods: 3n,
      throttledNs: 70_000_000n,
    },
    memory: {
      usage: 50_000_000n,
      workingSet: 40_000_000n,
      rss: 20_000_000n,
      cache: 25_000_000n,
      mappedFile: 8_000_000n,
      kernel: 3_000_000n,
      swap: 4096n,
      swapMax: 0n,
      peak: 60_000_000n,
      failures: 7n,
      pageFaults: 9000n,
      majorPageFaults: 12n,
      ownPageFaults: 9000n,
      ownMajorPageFaults: 12n,
      limit: 134_217_728n,
      reservation: 33_554_432n,
      swapLimit: 134_217_728n,
    },
    pids: { threads: 11n, max: undefined },
    devices: [
      {
        major: 7,
        minor: 999,
        device: '',
        operations: [
          { operation: 'Read', bytes: 4096n, requests: 1n },
          { operation: 'Write', bytes: 8192n, requests: 2n },
          { operation: 'Discard', bytes: 0n, requests: 0n },
        ],
      },
    ],
    hugetlb: [
      { pageSize: '1GB', usage: 0n },
      { pageSize: '2MB', usage: 4_194_304n },
    ],
    cpuLimits: { shares: 500n, periodUs: 100_000n, quotaUs: 20_000n },
    oomKills: 1n,
    psi: {
      cpu: {
        some: { totalNs: 1_234_567_000n, avg10: 1.5, avg60: 0.25, avg300: 0.05 },
        full: { totalNs: 234_567_000n, avg10: 0, avg60: 0, avg300: 0 },
      },
      memory: {
        some: { totalNs: 0n, avg10: 0, avg60: 0, avg300: 0 },
        full: { totalNs: 0n, avg10: 0, avg60: 0, avg300: 0 },
      },
      io: {
        some: { totalNs: 5_000_000n, avg10: 0, avg60: 0, avg300: 0 },
        full: { totalNs: 4_000_000n, avg10: 0, avg60: 0, avg300: 0 },
      },
    },
  });
  assert.equal(readOomKills({ v1: {}, unified: join(root, 'v2') }), 1n);
});

test('an older v2, without limits, swap, pressure and the fields of 5.18 and 5.19', () => {
  const { 'memory.peak': _, 'io.pressure': _io, 'cpu.pressure': _cpu, 'memory.swap.current': _swap, ...old } = V2;
  const folder = tree('v2-old', {
    ...old,
    'memory.max': 'max\n',
    'memory.min': '0\n',
    'cpu.max': 'max 100000\n',
    'memory.pressure': '',
    'memory.stat':
      'anon 1\nfile 70000000\nkernel_stack 100\npagetables 20\nslab 3\ninactive_file 60000000\npgfault 5\n',
  });
  const reading = readCgroup({ v1: {}, unified: folder }, true);
  assert.equal(reading?.memory?.limit, undefined);
  assert.equal(reading?.memory?.swapLimit, undefined);
  assert.equal(reading?.memory?.swap, undefined);
  assert.equal(reading?.memory?.peak, undefined);
  assert.equal(reading?.memory?.kernel, 123n);
  assert.equal(reading?.memory?.workingSet, 0n, 'more inactive file cache than usage, read a moment later');
  assert.equal(reading?.cpuLimits?.quotaUs, undefined);
  assert.deepEqual(reading?.psi, { cpu: undefined, memory: undefined, io: undefined });
});

const V1 = {
  'cpu/cpu.stat': 'nr_periods 40\nnr_throttled 3\nthrottled_time 70000000\n',
  'cpu/cpu.shares': '512\n',
  'cpu/cpu.cfs_quota_us': '-1\n',
  'cpu/cpu.cfs_period_us': '100000\n',
  'cpuacct/cpuacct.usage': '2500000000\n',
  'cpuacct/cpuacct.stat': 'user 150\nsystem 99\n',
  'memory/memory.usage_in_bytes': '50000000\n',
  'memory/memory.max_usage_in_bytes': '60000000\n',
  'memory/memory.limit_in_bytes': '134217728\n',
  'memory/memory.soft_limit_in_bytes': '9223372036854771712\n',
  'memory/memory.memsw.limit_in_bytes': '134221824\n',
  'memory/memory.kmem.usage_in_bytes': '3000000\n',
  'memory/memory.failcnt': '7\n',
  'memory/memory.oom_control': 'oom_kill_disable 0\nunder_oom 0\noom_kill 2\n',
  'memory/memory.stat':
    'cache 1\nrss 1\nmapped_file 1\npgfault 100\npgmajfault 1\nswap 0\ninactive_file 1\nhierarchical_memory_limit 134217728\ntotal_cache 25000000\ntotal_rss 20000000\ntotal_mapped_file 8000000\ntotal_swap 4096\ntotal_pgfault 9000\ntotal_pgmajfault 12\ntotal_inactive_file 10000000\n',
  'blkio/blkio.throttle.io_service_bytes': '',
  'blkio/blkio.throttle.io_service_bytes_recursive':
    '7:999 Read 4096\n7:999 Write 8192\n7:999 Sync 4096\n7:999 Async 8192\n7:999 Discard 0\n7:999 Total 12288\nTotal 12288\n',
  'blkio/blkio.throttle.io_serviced_recursive': '7:999 Read 1\n7:999 Write 2\nTotal 3\n',
  'pids/pids.current': '11\n',
  'pids/pids.max': '1024\n',
  'pids/cgroup.procs': '10\n11\n',
  'pids/inner/cgroup.procs': '12\n',
  'pids/inner/deeper/cgroup.procs': '13\n',
  'hugetlb/hugetlb.2MB.usage_in_bytes': '0\n',
  'hugetlb/hugetlb.2MB.max_usage_in_bytes': '2097152\n',
  'hugetlb/hugetlb.2MB.rsvd.usage_in_bytes': '0\n',
};

test('a cgroup on v1', () => {
  const folder = tree('v1', V1);
  const controllers = ['cpu', 'cpuacct', 'memory', 'blkio', 'pids', 'hugetlb'];
  const paths = { v1: Object.fromEntries(controllers.map((name) => [name, join(folder, name)])) };
  const reading = readCgroup(paths, true);
  assert.deepEqual(reading?.cpu, {
    usageNs: 2_500_000_000n,
    userNs: 1_500_000_000n,
    systemNs: 990_000_000n,
    periods: 40n,
    throttledPeriods: 3n,
    throttledNs: 70_000_000n,
  });
  assert.deepEqual(reading?.memory, {
    usage: 50_000_000n,
    workingSet: 40_000_000n,
    rss: 20_000_000n,
    cache: 25_000_000n,
    mappedFile: 8_000_000n,
    kernel: 3_000_000n,
    swap: 4096n,
    swapMax: 4096n,
    peak: 60_000_000n,
    failures: 7n,
    pageFaults: 9000n,
    majorPageFaults: 12n,
    ownPageFaults: 100n,
    ownMajorPageFaults: 1n,
    limit: 134_217_728n,
    reservation: undefined,
    swapLimit: 134_221_824n,
  });
  assert.deepEqual(
    reading?.devices[0]?.operations.find(({ operation }) => operation === 'Write'),
    {
      operation: 'Write',
      bytes: 8192n,
      requests: 2n,
    },
  );
  assert.equal(reading?.devices.length, 1);
  assert.deepEqual(reading?.pids, { threads: 11n, max: 1024n });
  assert.deepEqual(reading?.hugetlb, [{ pageSize: '2MB', usage: 0n, peak: 2_097_152n }]);
  assert.deepEqual(reading?.cpuLimits, { shares: 512n, periodUs: 100_000n, quotaUs: undefined });
  assert.equal(reading?.oomKills, 2n);
  assert.deepEqual(reading?.psi, {});
  assert.equal(readOomKills(paths), 2n);
  assert.deepEqual(pidsIn(join(folder, 'pids')).sort(), [10, 11, 12, 13]);

  // "usage" leaves out what only the metrics need.
  const brief = readCgroup(paths, false);
  assert.deepEqual([brief?.devices, brief?.hugetlb, brief?.cpuLimits, brief?.oomKills], [[], [], undefined, undefined]);
  assert.equal(brief?.memory?.usage, 50_000_000n);
});

test('hybrid: v1 where it is mounted, the unified hierarchy for the rest', () => {
  const folder = tree('hybrid', {
    'memory/memory.usage_in_bytes': '5\n',
    'memory/memory.stat': '',
    'unified/cpu.stat': 'usage_usec 3\nuser_usec 2\nsystem_usec 1\n',
    'unified/hugetlb.2MB.current': '0\n',
    'unified/cpu.pressure': 'some avg10=0.00 avg60=0.00 avg300=0.00 total=9\n',
  });
  const reading = readCgroup({ v1: { memory: join(folder, 'memory') }, unified: join(folder, 'unified') }, true);
  assert.equal(reading?.memory?.usage, 5n);
  assert.equal(reading?.cpu?.usageNs, 3000n);
  assert.equal(reading?.hugetlb.length, 1);
  assert.equal(reading?.psi.cpu?.some.totalNs, 9000n);
  assert.equal(reading?.psi.cpu?.full.totalNs, 0n, 'the kernel had no full line for CPU before 5.13');
});

test('a cgroup that is gone is undefined and not an error', () => {
  assert.equal(readCgroup({ v1: {} }, true), undefined);
  assert.equal(readCgroup({ v1: { memory: '/nope' }, unified: '/nope' }, true), undefined);
  assert.equal(readOomKills({ v1: { memory: '/nope' } }), undefined);
  assert.deepEqual(pidsIn('/nope'), []);
});

test('malformed and unusual texts', () => {
  assert.equal(parsePsi(''), undefined);
  assert.equal(parsePsi('garbage'), undefined);
  assert.equal(
    parseMaxOpenFiles('Max open files            unlimited            unlimited            files\n'),
    undefined,
  );
  assert.equal(parseMaxOpenFiles('Limit  Soft\nMax open files            1024                 4096  files \n'), 1024n);
  assert.equal(sharesOfWeight(1n), 2n);
  assert.equal(sharesOfWeight(10_000n), 262_144n);
});

test('interface counters', () => {
  const text = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 158086049    9484    0    0    0     0          0         0 158086049    9484    0    0    0     0       0          0
  eth0:18446744073709551615 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0
`;
  assert.deepEqual(parseNetDev(text), [
    {
      name: 'eth0',
      rxBytes: 18_446_744_073_709_551_615n,
      rxPackets: 2n,
      rxErrors: 3n,
      rxDropped: 4n,
      txBytes: 5n,
      txPackets: 6n,
      txErrors: 7n,
      txDropped: 8n,
    },
  ]);
});

test('disk: hard links count once, an absent folder is undefined', async () => {
  const { linkSync, lstatSync, symlinkSync } = await import('node:fs');
  const folder = tree('disk', { 'a/one': 'x'.repeat(10_000), 'b/two': '' });
  linkSync(join(folder, 'a/one'), join(folder, 'b/again'));
  symlinkSync('/', join(folder, 'b/out'));
  const reading = await readDisk(folder);
  const paths = ['', 'a', 'b', 'a/one', 'b/two', 'b/out'];
  const blocks = paths.reduce((sum, path) => sum + lstatSync(join(folder, path)).blocks, 0);
  assert.equal(reading?.inodes, BigInt(paths.length));
  assert.equal(reading?.usedBytes, BigInt(blocks * 512));
  assert.equal(await readDisk(join(folder, 'nope')), undefined);
  assert.equal(readFilesystem(join(folder, 'nope')), undefined);
  assert.ok((readFilesystem(folder)?.sizeBytes ?? 0n) > 0n);
});
