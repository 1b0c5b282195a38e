import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  ListPodSandboxMetricsResponse,
  MetricType,
  type PodSandboxMetrics,
  RuntimeServiceDefinition,
} from '../../proto/gen/cri.ts';
import { Encoded, grpcService } from '../../src/node/grpc/service.ts';
import { CpuRates } from '../../src/node/stats/cpu-rates.ts';
import { DiskUsage } from '../../src/node/stats/disk-usage.ts';
import { encodeMetrics } from '../../src/node/stats/encoded.ts';
import { metricDescriptors } from '../../src/node/stats/metrics.ts';
import { Stats, type StatsWorker } from '../../src/node/stats/stats.ts';
import type { ContainerSubject, PodSubject } from '../../src/node/stats/subjects.ts';
import type { DiskReading } from '../../src/workers/stats/disk.ts';
import type { ReadTarget, Sample } from '../../src/workers/stats.ts';

const SECOND = 1_000_000_000n;

/** The metric names that critest (cri-tools main) expects, without their prefix `container_`. */
const EXPECTED = `blkio_device_usage_total cpu_cfs_periods_total cpu_cfs_throttled_periods_total
cpu_cfs_throttled_seconds_total cpu_system_seconds_total cpu_usage_seconds_total cpu_user_seconds_total
file_descriptors fs_inodes_free fs_inodes_total fs_limit_bytes fs_reads_bytes_total fs_reads_total fs_usage_bytes
fs_writes_bytes_total fs_writes_total hugetlb_max_usage_bytes hugetlb_usage_bytes last_seen memory_cache
memory_failcnt memory_failures_total memory_kernel_usage memory_mapped_file memory_max_usage_bytes memory_rss
memory_swap memory_usage_bytes memory_working_set_bytes network_receive_bytes_total network_receive_errors_total
network_receive_packets_dropped_total network_receive_packets_total network_transmit_bytes_total
network_transmit_errors_total network_transmit_packets_dropped_total network_transmit_packets_total
oom_events_total pressure_cpu_stalled_seconds_total pressure_cpu_waiting_seconds_total
pressure_io_stalled_seconds_total pressure_io_waiting_seconds_total pressure_memory_stalled_seconds_total
pressure_memory_waiting_seconds_total processes sockets spec_cpu_period spec_cpu_quota spec_cpu_shares
spec_memory_limit_bytes spec_memory_reservation_limit_bytes spec_memory_swap_limit_bytes start_time_seconds threads
threads_max ulimits_soft`
  .split(/\s+/)
  .map((name) => `container_${name}`);

const PRESSURE = {
  some: { totalNs: 7n * SECOND, avg10: 1, avg60: 2, avg300: 3 },
  full: { totalNs: 5n * SECOND, avg10: 0, avg60: 0, avg300: 0 },
};

/** A sample with every field, as a kernel with cgroup v1 (hybrid) and all controllers gives it. */
function fullSample(timestamp = 1000n * SECOND, usageNs = 90n * SECOND): Sample {
  return {
    cgroup: {
      timestamp,
      tickNs: timestamp,
      cpu: {
        usageNs,
        userNs: 60n * SECOND,
        systemNs: 30n * SECOND,
        periods: 10n,
        throttledPeriods: 2n,
        throttledNs: 3n * SECOND,
      },
      memory: {
        usage: 500n,
        workingSet: 400n,
        rss: 300n,
        cache: 200n,
        mappedFile: 100n,
        kernel: 50n,
        swap: 10n,
        swapMax: 40n,
        peak: 600n,
        failures: 1n,
        pageFaults: 20n,
        majorPageFaults: 2n,
        ownPageFaults: 18n,
        ownMajorPageFaults: 1n,
        limit: 1000n,
        reservation: 100n,
        swapLimit: 1040n,
      },
      devices: [
        {
          major: 8,
          minor: 0,
          device: '/dev/sda',
          operations: [
            { operation: 'Read', bytes: 4096n, requests: 1n },
            { operation: 'Write', bytes: 8192n, requests: 2n },
            { operation: 'Total', bytes: 12_288n, requests: 3n },
          ],
        },
      ],
      pids: { threads: 9n },
      hugetlb: [{ pageSize: '2MB', usage: 1n, peak: 2n }],
      cpuLimits: { shares: 1024n, periodUs: 100_000n, quotaUs: 20_000n },
      oomKills: 1n,
      psi: { cpu: PRESSURE, memory: PRESSURE, io: PRESSURE },
    },
    processes: { processes: 3n, threads: 8n, descriptors: 30n, sockets: 4n, maxOpenFiles: 1024n },
    processCount: 3n,
    filesystem: { device: '/dev/sda1', sizeBytes: 10_000n, inodes: 100n, inodesFree: 60n },
    network: [
      {
        name: 'net1',
        rxBytes: 1n,
        rxPackets: 2n,
        rxErrors: 3n,
        rxDropped: 4n,
        txBytes: 5n,
        txPackets: 6n,
        txErrors: 7n,
        txDropped: 8n,
      },
      {
        name: 'eth0',
        rxBytes: 11n,
        rxPackets: 12n,
        rxErrors: 13n,
        rxDropped: 14n,
        txBytes: 15n,
        txPackets: 16n,
        txErrors: 17n,
        txDropped: 18n,
      },
    ],
  };
}

const container = (id: string): ContainerSubject => ({
  id,
  attributes: { id, metadata: { name: `name-${id}`, attempt: 0 }, labels: { a: 'b' }, annotations: {} },
  image: 'busybox:1',
  pid: 42,
  cgroupsPath: `/kubepods/${id}`,
  upperDir: `/snap/${id}`,
  fsMountpoint: '/var/lib/sluice',
  startedAt: 900n * SECOND + 5n,
});

const pod = (id: string, containers: ContainerSubject[], more: Partial<PodSubject> = {}): PodSubject => ({
  id,
  attributes: {
    id,
    metadata: { name: 'web', uid: 'u', namespace: 'default', attempt: 0 },
    labels: {},
    annotations: {},
  },
  cgroupParent: '/kubepods/pod',
  cgroupsPath: `/kubepods/pod/${id}`,
  pid: 41,
  netns: '/run/netns/x',
  containers,
  ...more,
});

const DISK: DiskReading = { timestamp: 999n * SECOND, usedBytes: 777n, inodes: 7n, tookMs: 1 };

/** A worker with a fixed sample per cgroup; any other cgroup does not exist. */
function worker(samples: (target: ReadTarget) => Sample, calls: ReadTarget[][] = []): StatsWorker {
  return {
    readStats: async ({ targets }) => {
      calls.push(targets);
      return targets.map(samples);
    },
    diskUsage: async () => DISK,
  };
}

const stats = (w: StatsWorker, problems: string[] = []) =>
  new Stats({ worker: w, onProblem: (what, problem) => problems.push(`${what}: ${problem}`) });

test('container stats have every field in its unit', async () => {
  const [one] = await stats(worker(() => fullSample())).containers([container('c1')]);
  assert.equal(one?.attributes?.metadata?.name, 'name-c1');
  assert.deepEqual(one?.cpu, {
    timestamp: 1000n * SECOND,
    usageCoreNanoSeconds: { value: 90n * SECOND },
    usageNanoCores: undefined,
    psi: {
      Full: { Total: 5n * SECOND, Avg10: 0, Avg60: 0, Avg300: 0 },
      Some: { Total: 7n * SECOND, Avg10: 1, Avg60: 2, Avg300: 3 },
    },
  });
  assert.equal(one?.memory?.workingSetBytes?.value, 400n);
  assert.equal(one?.memory?.availableBytes?.value, 600n);
  assert.equal(one?.memory?.rssBytes?.value, 300n);
  assert.equal(one?.memory?.majorPageFaults?.value, 2n);
  assert.deepEqual(one?.writableLayer, {
    timestamp: 999n * SECOND,
    fsId: { mountpoint: '/var/lib/sluice' },
    usedBytes: { value: 777n },
    inodesUsed: { value: 7n },
  });
  assert.deepEqual(one?.swap, {
    timestamp: 1000n * SECOND,
    swapAvailableBytes: { value: 30n },
    swapUsageBytes: { value: 10n },
  });
  assert.equal(one?.io?.psi?.Some?.Total, 7n * SECOND);
});

test('without a limit availableBytes is absent, and without pressure psi is absent', async () => {
  const sample = fullSample();
  if (sample.cgroup?.memory) sample.cgroup.memory = { ...sample.cgroup.memory, limit: undefined, swap: undefined };
  if (sample.cgroup) sample.cgroup.psi = {};
  const [one] = await stats(worker(() => sample)).containers([{ ...container('c1'), upperDir: '' }]);
  assert.equal(one?.memory?.availableBytes, undefined);
  assert.equal(one?.memory?.psi, undefined);
  assert.equal(one?.swap, undefined);
  assert.equal(one?.io, undefined);
  assert.equal(one?.writableLayer, undefined);
});

test('ended containers are omitted, the others keep their own values, problems are reported', async () => {
  const problems: string[] = [];
  const subject = stats(
    worker(({ cgroupsPath }) =>
      cgroupsPath === '/kubepods/c2' ? {} : cgroupsPath === '/kubepods/c3' ? { problem: 'EIO' } : fullSample(),
    ),
    problems,
  );
  const list = await subject.containers(['c1', 'c2', 'c3', 'c4'].map(container));
  assert.deepEqual(
    list.map(({ attributes }) => attributes?.id),
    ['c1', 'c4'],
  );
  assert.deepEqual(problems, ['c3: EIO']);
});

test('long lists are read in batches, in order', async () => {
  const calls: ReadTarget[][] = [];
  const subjects = Array.from({ length: 150 }, (_, i) => container(`c${i}`));
  const list = await stats(worker(() => fullSample(), calls)).containers(subjects);
  assert.deepEqual(
    calls.map((targets) => targets.length),
    [64, 64, 22],
  );
  assert.deepEqual(
    list.map(({ attributes }) => attributes?.id),
    subjects.map(({ id }) => id),
  );
});

test('the second call returns a rate', async () => {
  let at = 1000n * SECOND;
  let used = 0n;
  const subject = stats(worker(() => fullSample(at, used)));
  const rate = async () => (await subject.containers([container('c1')]))[0]?.cpu?.usageNanoCores?.value;
  assert.equal(await rate(), undefined);
  at += 10n * SECOND;
  used += 5n * SECOND;
  assert.equal(await rate(), SECOND / 2n);
  // Within the window the call returns the old rate and does not shorten the window of the next one.
  at += SECOND / 10n;
  used += SECOND / 10n;
  assert.equal(await rate(), SECOND / 2n);
  at += 9n * SECOND + (9n * SECOND) / 10n;
  used += 20n * SECOND - SECOND / 10n;
  assert.equal(await rate(), 2n * SECOND);
  // The container was started again, so the counter starts at zero.
  at += 10n * SECOND;
  used = 1n;
  assert.equal(await rate(), undefined);
});

test('samples that are no longer requested are dropped', () => {
  const rates = new CpuRates();
  for (let i = 0; i < 100; i++) rates.nanoCores(`old${i}`, 1000n * SECOND, 1n);
  assert.equal(rates.size, 100);
  rates.nanoCores('new', 1700n * SECOND, 1n);
  assert.equal(rates.size, 1);
});

test('pod stats come from the pod cgroup, with its network and its containers', async () => {
  const [one] = await stats(worker(({ cgroupParent }) => fullSample(1000n * SECOND, cgroupParent ? 99n : 11n))).pods([
    pod('p1', [container('c1'), container('c2')]),
  ]);
  assert.equal(one?.linux?.cpu?.usageCoreNanoSeconds?.value, 99n);
  assert.equal(one?.linux?.network?.defaultInterface?.name, 'eth0');
  assert.equal(one?.linux?.network?.defaultInterface?.rxBytes?.value, 11n);
  assert.equal(one?.linux?.network?.defaultInterface?.txErrors?.value, 17n);
  assert.deepEqual(
    one?.linux?.network?.interfaces.map(({ name }) => name),
    ['net1', 'eth0'],
  );
  assert.equal(one?.linux?.process?.processCount?.value, 3n);
  assert.deepEqual(
    one?.linux?.containers.map(({ attributes }) => attributes?.id),
    ['c1', 'c2'],
  );
  assert.equal(one?.linux?.containers[1]?.cpu?.usageCoreNanoSeconds?.value, 11n);
});

for (const cgroupParent of ['', '/']) {
  test(`a pod without a cgroup of its own (parent "${cgroupParent}") is the sum of its members`, async () => {
    const calls: ReadTarget[][] = [];
    const [one] = await stats(
      worker(({ cgroupParent: parent, cgroupsPath }) => (parent || !cgroupsPath ? {} : fullSample()), calls),
    ).pods([pod('p1', [container('c1'), container('c2')], { cgroupParent })]);
    assert.equal(one?.linux?.cpu?.usageCoreNanoSeconds?.value, 270n * SECOND);
    assert.equal(one?.linux?.memory?.workingSetBytes?.value, 1200n);
    assert.equal(one?.linux?.memory?.availableBytes, undefined);
    assert.equal(one?.linux?.process?.processCount?.value, 9n);
    assert.ok(calls.flat().every(({ countProcesses }) => countProcesses));
    assert.ok(!calls.flat().some(({ cgroupParent: parent }) => parent === '/'), 'the root cgroup is never read');
  });
}

test('the values of several pods do not mix, and a pod that no longer exists is omitted', async () => {
  const list = await stats(
    worker(({ cgroupParent, cgroupsPath }) => {
      const name = cgroupParent ?? cgroupsPath ?? '';
      return name.includes('gone') ? {} : fullSample(1000n * SECOND, BigInt(name.length));
    }),
  ).pods([
    pod('p1', [container('c1')], { cgroupParent: '/a' }),
    pod('gone', [container('gone1')], { cgroupParent: '/gone' }),
    pod('p3', [], { cgroupParent: '/abc' }),
    pod('p4', [container('c22'), container('gone2')], { cgroupParent: '/abcd' }),
  ]);
  assert.deepEqual(
    list.map(({ attributes }) => attributes?.id),
    ['p1', 'p3', 'p4'],
  );
  assert.deepEqual(
    list.map(({ linux }) => linux?.cpu?.usageCoreNanoSeconds?.value),
    [2n, 4n, 5n],
  );
  assert.deepEqual(
    list.map(({ linux }) => linux?.containers.length),
    [1, 0, 1],
  );
});

test('the descriptors are the expected 56, explained and labelled', () => {
  const descriptors = metricDescriptors();
  assert.equal(EXPECTED.length, 56);
  assert.deepEqual(
    descriptors.map(({ name }) => name),
    EXPECTED.toSorted(),
  );
  for (const { name, help, labelKeys } of descriptors) {
    assert.ok(help.endsWith('.'), name);
    assert.deepEqual(labelKeys.slice(0, 5), ['pod', 'namespace', 'container', 'id', 'image']);
  }
});

async function metricsOf(sample: Sample, containers = [container('c1')], more: Partial<PodSubject> = {}) {
  const list: PodSandboxMetrics[] = [];
  for await (const one of stats(worker(() => sample)).metrics([pod('p1', containers, more)])) list.push(one);
  assert.equal(list.length, 1);
  const all = list.flatMap((one) => [...one.metrics, ...one.containerMetrics.flatMap(({ metrics }) => metrics)]);
  const value = (name: string, ...labels: string[]) =>
    all.find((metric) => metric.name === name && labels.every((label) => metric.labelValues.includes(label)))?.value
      ?.value;
  return { list, all, value };
}

test('every metric has a value with as many labels as its descriptor, where the kernel has everything', async () => {
  const { all } = await metricsOf(fullSample());
  for (const { name, labelKeys } of metricDescriptors()) {
    const found = all.filter((metric) => metric.name === name);
    assert.ok(found.length > 0, `${name} has no value`);
    for (const { labelValues, value } of found) {
      assert.equal(labelValues.length, labelKeys.length, name);
      assert.equal(typeof value?.value, 'bigint', name);
    }
  }
});

test('with a minimal kernel only those metrics are missing that critest allows to be missing', async () => {
  const sample = fullSample();
  if (sample.cgroup?.memory) {
    const { peak: _, limit: _limit, swapLimit: _swapLimit, swap: _swap, ...memory } = sample.cgroup.memory;
    sample.cgroup = {
      ...sample.cgroup,
      memory,
      devices: [],
      hugetlb: [],
      pids: undefined,
      psi: {},
      cpuLimits: { shares: 2n, periodUs: 100_000n },
    };
  }
  if (sample.processes) sample.processes.maxOpenFiles = undefined;
  const { all, value } = await metricsOf(sample);
  const names = new Set(all.map(({ name }) => name));
  const mayBeMissing =
    /hugetlb|pressure|spec_cpu_quota|spec_memory_reservation|ulimits_soft|blkio|fs_(reads|writes)_(bytes_)?total/;
  assert.deepEqual(
    EXPECTED.filter((name) => !names.has(name) && !mayBeMissing.test(name)),
    [],
  );
  assert.equal(value('container_threads'), 8n, 'counted without the pids controller');
  assert.equal(value('container_spec_memory_limit_bytes'), 0n);
  assert.equal(value('container_memory_max_usage_bytes'), 500n);
});

test('values, units and labels of metrics', async () => {
  const { list, all, value } = await metricsOf(fullSample(), [{ ...container('c1'), cpuShares: 512n }]);
  assert.equal(value('container_cpu_usage_seconds_total'), 90n);
  assert.equal(value('container_cpu_cfs_throttled_seconds_total'), 3n);
  assert.equal(value('container_start_time_seconds'), 900n);
  assert.equal(value('container_last_seen'), 1000n);
  assert.equal(value('container_pressure_io_waiting_seconds_total'), 7n);
  assert.equal(value('container_pressure_io_stalled_seconds_total'), 5n);
  assert.equal(value('container_memory_failures_total', 'pgmajfault', 'container'), 1n);
  assert.equal(value('container_memory_failures_total', 'pgfault', 'hierarchy'), 20n);
  assert.equal(value('container_blkio_device_usage_total', '/dev/sda', '8', '0', 'Write'), 8192n);
  assert.equal(value('container_blkio_device_usage_total', 'Total'), undefined);
  assert.equal(value('container_fs_reads_total', '/dev/sda'), 1n);
  assert.equal(value('container_fs_inodes_free', '/dev/sda1'), 60n);
  assert.equal(value('container_spec_cpu_shares'), 512n);
  assert.equal(value('container_threads'), 9n);
  assert.equal(value('container_threads_max'), 0n);
  assert.equal(value('container_ulimits_soft', 'max_open_files'), 1024n);
  assert.equal(value('container_network_transmit_packets_dropped_total', 'eth0'), 18n);

  const own = all.find(({ name }) => name === 'container_memory_rss');
  assert.deepEqual(own?.labelValues, ['web', 'default', 'name-c1', 'c1', 'busybox:1']);
  assert.equal(own?.metricType, MetricType.GAUGE);
  assert.equal(own?.timestamp, 0n, 'gathered live');
  const net = all.find(({ name }) => name === 'container_network_receive_bytes_total');
  assert.deepEqual(net?.labelValues, ['web', 'default', '', 'p1', '', 'net1']);
  assert.equal(net?.metricType, MetricType.COUNTER);
  assert.equal(all.find(({ name }) => name === 'container_fs_usage_bytes')?.timestamp, DISK.timestamp, 'cached');
  assert.ok(list[0]?.metrics.every(({ name }) => name.startsWith('container_network_')));
  assert.equal(list[0]?.containerMetrics[0]?.containerId, 'c1');
});

test('one container without a cgroup does not affect the metrics of the others', async () => {
  const one = stats(worker(({ cgroupsPath }) => (cgroupsPath?.endsWith('c1') ? {} : fullSample())));
  const list: PodSandboxMetrics[] = [];
  const subjects = Array.from({ length: 40 }, (_, i) => pod(`p${i}`, [container('c1'), container(`x${i}`)]));
  for await (const metrics of one.metrics(subjects)) list.push(metrics);
  assert.deepEqual(
    list.map(({ podSandboxId }) => podSandboxId),
    subjects.map(({ id }) => id),
  );
  for (const [i, { containerMetrics }] of list.entries()) {
    assert.deepEqual(
      containerMetrics.map(({ containerId }) => containerId),
      [`x${i}`],
    );
  }
});

test('metrics encoded pod by pod make the whole response', async () => {
  const subject = stats(worker(() => fullSample()));
  const subjects = Array.from({ length: 20 }, (_, i) => pod(`p${i}`, [container(`c${i}`)]));
  const plain: PodSandboxMetrics[] = [];
  for await (const metrics of subject.metrics(subjects)) plain.push(metrics);
  const bytes = await encodeMetrics(subject.metrics(subjects));
  assert.deepEqual(ListPodSandboxMetricsResponse.decode(bytes), { podMetrics: plain });
  const { responseSerialize } = grpcService(RuntimeServiceDefinition).listPodSandboxMetrics;
  assert.deepEqual(responseSerialize(new Encoded(bytes) as never), bytes);
  assert.deepEqual(responseSerialize({ podMetrics: plain }), bytes);
  assert.equal((await encodeMetrics(subject.metrics([]))).length, 0);
});

test('a host-network pod has no network of its own', async () => {
  const calls: ReadTarget[][] = [];
  const w = worker(() => ({ ...fullSample(), network: undefined }), calls);
  const [one] = await stats(w).pods([pod('p1', [], { netns: '' })]);
  assert.equal(one?.linux?.network, undefined);
  assert.ok(calls.flat().every(({ netns }) => netns === undefined));
});

test('disk usage: one walk at a time, the old size at once, slow walks less often', async () => {
  let now = 0;
  let walks = 0;
  let reading: DiskReading | undefined = DISK;
  const disk = new DiskUsage({
    walk: async () => {
      walks++;
      await sleep(5);
      return reading;
    },
    onProblem: (_, error) => assert.fail(String(error)),
    now: () => now,
  });
  const both = await Promise.all([disk.of('/a'), disk.of('/a')]);
  assert.deepEqual(both, [DISK, DISK]);
  assert.equal(walks, 1, 'two callers share a walk');
  now = 9000;
  await disk.of('/a');
  assert.equal(walks, 1, 'fresh');

  reading = { ...DISK, usedBytes: 888n, tookMs: 2000 };
  now = 10_001;
  assert.equal((await disk.of('/a'))?.usedBytes, 777n, 'the old size, while a walk is under way');
  await sleep(30);
  assert.equal((await disk.of('/a'))?.usedBytes, 888n);
  assert.equal(walks, 2);
  now += 39_000;
  await disk.of('/a');
  assert.equal(walks, 2, 'a walk of two seconds is good for forty');
});

test('disk usage: undefined when the first walk is slow; a failed walk is reported and does not reject', async () => {
  const problems: string[] = [];
  const walk = Promise.withResolvers<DiskReading>();
  const disk = new DiskUsage({
    walk: (folder) => (folder === '/bad' ? Promise.reject(new Error('EIO')) : walk.promise),
    onProblem: (folder, error) => problems.push(`${folder} ${(error as Error).message}`),
    firstWalkMs: 10,
  });
  assert.equal(await disk.of('/slow'), undefined);
  assert.equal(await disk.of('/bad'), undefined);
  assert.deepEqual(problems, ['/bad EIO']);
  walk.resolve(DISK);
  await sleep(5);
  assert.equal((await disk.of('/slow'))?.usedBytes, 777n);
});
