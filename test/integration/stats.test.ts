/** Stats of a real container of runc, read through a real pool and compared with du, /proc and runc. */
import assert from 'node:assert/strict';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { PodSandboxMetrics } from '../../proto/gen/cri.ts';
import { metricDescriptors } from '../../src/node/stats/metrics.ts';
import { Stats } from '../../src/node/stats/stats.ts';
import type { ContainerSubject, PodSubject } from '../../src/node/stats/subjects.ts';
import { Pool } from '../../src/node/threads/pool.ts';
import { libc } from '../../src/sys/libc.ts';
import { SIGKILL } from '../../src/sys/signals.ts';
import { run } from '../../src/sys/spawn.ts';
import { cgroupMounts, cgroupsOfProcess, cgroupsOfSpec } from '../../src/workers/stats/cgroups.ts';
import { pidsIn, readProcesses } from '../../src/workers/stats/processes.ts';
import { readCgroup } from '../../src/workers/stats/read.ts';
import type { statsHandlers } from '../../src/workers/stats.ts';

const MIB = 1n << 20n;
const id = `sluice-stats-${process.pid}`;
const cgroupParent = `/${id}`;
const cgroupsPath = `${cgroupParent}/c1`;
const dir = mkdtempSync(join(tmpdir(), 'sluice-stats-'));
const rootfs = join(dir, 'rootfs');
const unifiedMount = cgroupMounts().unified?.mountpoint;
const PATH = '/usr/sbin:/usr/bin:/sbin:/bin';

const pool = new Pool<typeof statsHandlers>({
  name: 'shim',
  file: new URL('../../src/workers/shim.ts', import.meta.url),
  minThreads: 1,
  maxThreads: 1,
  callsPerThread: 4,
  maxQueue: 100,
});
const problems: string[] = [];
const stats = new Stats({
  worker: {
    readStats: (input) => pool.call('readStats', input),
    diskUsage: (input) => pool.call('diskUsage', input),
  },
  onProblem: (what, problem) => problems.push(`${what}: ${problem}`),
});

async function sh(command: string): Promise<string> {
  const result = await run({ path: '/bin/sh', argv: ['sh', '-c', command], env: { PATH }, timeoutMs: 60_000 });
  assert.equal(result.code, 0, `${command}: ${result.stderr}`);
  return result.stdout.toString();
}
const runc = (args: string) => `runc --root ${dir}/runc ${args}`;

let pid = 0;

before(async () => {
  mkdirSync(join(rootfs, 'bin'), { recursive: true });
  await sh(`cp /bin/busybox ${rootfs}/bin/busybox && cd ${dir} && runc spec`);
  const spec = JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8'));
  spec.process.terminal = false;
  spec.process.args = [
    '/bin/busybox',
    'sh',
    '-c',
    `busybox nc -l -p 7 & i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done
     busybox dd if=/dev/zero of=/dev/shm/x bs=1048576 count=20
     busybox dd if=/dev/zero of=/big bs=1048576 count=3; echo ok > /ready; exec busybox sleep 1000`,
  ];
  spec.process.rlimits = [{ type: 'RLIMIT_NOFILE', soft: 1234, hard: 2000 }];
  spec.root = { path: 'rootfs', readonly: false };
  spec.linux.cgroupsPath = cgroupsPath;
  spec.linux.resources = {
    memory: { limit: Number(64n * MIB), reservation: Number(32n * MIB) },
    cpu: { shares: 512, period: 100_000, quota: 90_000 },
    pids: { limit: 77 },
  };
  for (const mount of spec.mounts) if (mount.destination === '/dev/shm') mount.options.push('size=32m');
  writeFileSync(join(dir, 'config.json'), JSON.stringify(spec));
  await sh(
    `${runc(`run -d --bundle ${dir} --pid-file ${dir}/pid ${id}`)} </dev/null >${dir}/log 2>&1 || { cat ${dir}/log >&2; false; }`,
  );
  pid = Number(readFileSync(join(dir, 'pid'), 'utf8'));
  for (let i = 0; !existsSync(join(rootfs, 'ready')); i++) {
    assert.ok(i < 1200, 'the container is not ready after a minute');
    await sleep(50);
  }
  // A veth pair in the container's namespace, and a packet that leaves through one end (ARP for .9).
  const inside = `nsenter -t ${pid} -n`;
  await sh(`${inside} ip link add eth0 type veth peer name peer0 && ${inside} ip link set peer0 up && ${inside} ip link set eth0 up
    ${inside} ip addr add 198.18.77.1/24 dev eth0 && { ${inside} ping -c 1 -W 1 198.18.77.9 >/dev/null || true; }`);
});

after(async () => {
  await sh(`${runc(`delete -f ${id}`)} 2>/dev/null || true`);
  for (const folder of new Set([
    ...Object.values(cgroupsOfSpec(cgroupParent).v1),
    cgroupsOfSpec(cgroupParent).unified,
  ])) {
    if (folder !== undefined) rmdirSync(folder);
  }
  rmSync(dir, { recursive: true, force: true });
  await pool[Symbol.asyncDispose]();
});

const container = (): ContainerSubject => ({
  id: 'c1',
  attributes: { id: 'c1', metadata: { name: 'main', attempt: 0 }, labels: {}, annotations: {} },
  image: 'busybox',
  pid,
  cgroupsPath,
  upperDir: rootfs,
  fsMountpoint: dir,
  startedAt: BigInt(Date.now()) * 1_000_000n,
});
const pod = (more: Partial<PodSubject> = {}): PodSubject => ({
  id: 'p1',
  attributes: {
    id: 'p1',
    metadata: { name: 'web', uid: 'u', namespace: 'default', attempt: 0 },
    labels: {},
    annotations: {},
  },
  cgroupParent,
  cgroupsPath,
  pid,
  netns: `/proc/${pid}/ns/net`,
  containers: [container()],
  ...more,
});

const number = (value: { value: bigint } | undefined) => value?.value ?? -1n;
function near(actual: bigint, expected: bigint, slack: bigint, what: string) {
  assert.ok(actual >= expected - slack && actual <= expected + slack, `${what}: ${actual}, expected about ${expected}`);
}

test('the paths of the spec and those of the process are the same', () => {
  assert.deepEqual(cgroupsOfSpec(cgroupsPath), cgroupsOfProcess(pid));
});

test('container stats agree with runc and du', async () => {
  const [one] = await stats.containers([container()]);
  const events = JSON.parse(await sh(runc(`events --stats ${id}`))).data;
  assert.ok(one);
  near(number(one.cpu?.usageCoreNanoSeconds), BigInt(events.cpu.usage.total), 200_000_000n, 'cpu');
  assert.ok(number(one.cpu?.usageCoreNanoSeconds) > 10_000_000n, 'the loop took time');
  near(number(one.memory?.usageBytes), BigInt(events.memory.usage.usage), 4n * MIB, 'memory');
  assert.ok(number(one.memory?.usageBytes) > 20n * MIB);
  assert.ok(number(one.memory?.workingSetBytes) <= number(one.memory?.usageBytes));
  assert.equal(number(one.memory?.availableBytes), 64n * MIB - number(one.memory?.workingSetBytes));
  assert.ok(number(one.memory?.pageFaults) > 0n);
  const [used = ''] = (await sh(`du -s -B1 ${rootfs}`)).split('\t');
  assert.equal(number(one.writableLayer?.usedBytes), BigInt(used));
  assert.equal(number(one.writableLayer?.inodesUsed), BigInt((await sh(`find ${rootfs} | wc -l`)).trim()));
  assert.deepEqual(problems, []);
});

test('the second call returns a rate, and it is the load', async () => {
  const command = `exec ${id} /bin/busybox sh -c 'i=0; while [ $i -lt 100000000 ]; do i=$((i+1)); done'`;
  const burner = run({ path: '/bin/sh', argv: ['sh', '-c', runc(command)], env: { PATH }, timeoutMs: 2500 });
  await sleep(300);
  await stats.containers([container()]);
  await sleep(1200);
  const [one] = await stats.containers([container()]);
  const rate = Number(number(one?.cpu?.usageNanoCores)) / 1e9;
  // The machine is shared, so the load gets less than its 0.9 cores.
  assert.ok(rate > 0.05 && rate < 1.3, `${rate} cores`);
  await sh(`kill -9 $(${runc(`ps -f json ${id}`)} | tr -d '[]' | tr ',' '\\n' | tail -n 1)`);
  await burner;
});

test('pod stats: the parent cgroup, processes and interfaces', async () => {
  const [one] = await stats.pods([pod()]);
  assert.ok(one?.linux);
  assert.equal(number(one.linux.process?.processCount), 2n, 'sleep and nc');
  assert.ok(
    number(one.linux.cpu?.usageCoreNanoSeconds) >=
      number(one.linux.containers[0]?.cpu?.usageCoreNanoSeconds) - 50_000_000n,
  );
  assert.ok(number(one.linux.memory?.usageBytes) > 20n * MIB);
  assert.equal(one.linux.network?.defaultInterface?.name, 'eth0');
  assert.deepEqual(one.linux.network?.interfaces.map(({ name }) => name).sort(), ['eth0', 'peer0']);
  assert.ok(number(one.linux.network?.defaultInterface?.txBytes) >= 42n, 'an ARP request');
  assert.equal(one.linux.containers.length, 1);

  // Without a pod cgroup it is the sum; a pid in another namespace (reused) gives no network numbers.
  const [sum] = await stats.pods([pod({ cgroupParent: '', pid: process.pid, cgroupsPath: '/nope' })]);
  assert.ok(number(sum?.linux?.memory?.usageBytes) > 20n * MIB);
  assert.equal(sum?.linux?.network, undefined);
});

test('the metrics of a real container are complete and right', async () => {
  const list: PodSandboxMetrics[] = [];
  for await (const one of stats.metrics([pod()])) list.push(one);
  const all = list.flatMap((one) => [...one.metrics, ...one.containerMetrics.flatMap(({ metrics }) => metrics)]);
  const value = (name: string) => number(all.find((metric) => metric.name === name)?.value);
  const mayBeMissing = /hugetlb|pressure|blkio|fs_(reads|writes)_(bytes_)?total/;
  for (const { name, labelKeys } of metricDescriptors()) {
    const rows = all.filter((metric) => metric.name === name);
    assert.ok(rows.length > 0 || mayBeMissing.test(name), `${name} is missing`);
    for (const { labelValues } of rows) assert.equal(labelValues.length, labelKeys.length, name);
  }
  assert.equal(value('container_processes'), 2n);
  assert.equal(value('container_threads'), 2n);
  assert.equal(value('container_threads_max'), 77n);
  assert.equal(value('container_sockets'), 1n, 'nc listens');
  const descriptors = (await sh(runc(`ps -f json ${id}`)))
    .match(/\d+/g)
    ?.reduce((sum, process) => sum + readdirSync(`/proc/${process}/fd`).length, 0);
  assert.equal(value('container_file_descriptors'), BigInt(descriptors ?? -1));
  assert.equal(value('container_ulimits_soft'), 1234n);
  assert.equal(value('container_spec_cpu_quota'), 90_000n);
  assert.equal(value('container_spec_cpu_period'), 100_000n);
  near(value('container_spec_cpu_shares'), 512n, 30n, 'shares, which v2 rounds');
  assert.equal(value('container_spec_memory_limit_bytes'), 64n * MIB);
  assert.equal(value('container_spec_memory_reservation_limit_bytes'), 32n * MIB);
  assert.ok(value('container_memory_max_usage_bytes') >= value('container_memory_usage_bytes'));
  near(value('container_last_seen'), BigInt(Math.round(Date.now() / 1000)), 5n, 'seconds');
  assert.ok(value('container_fs_limit_bytes') > value('container_fs_usage_bytes'));
  assert.ok(value('container_cpu_cfs_periods_total') > 0n);
});

test('an OOM kill is counted', async () => {
  assert.equal(await pool.call('oomKills', { cgroupsPath, pid }), 0n);
  await sh(`${runc(`exec ${id} /bin/busybox tail /dev/zero`)} || true`);
  assert.equal(await pool.call('oomKills', { cgroupsPath, pid }), 1n);
});

test('a real v2 cgroup gives CPU time, pressure and processes', {
  skip: !unifiedMount && 'no cgroup2 here',
}, async () => {
  const folder = join(unifiedMount ?? '', `${id}-v2`);
  mkdirSync(folder);
  const command = `echo 0 >${folder}/cgroup.procs; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 10`;
  const child = run({ path: '/bin/sh', argv: ['sh', '-c', command], env: { PATH }, timeoutMs: 15_000 });
  try {
    let reading = readCgroup({ v1: {}, unified: folder }, true);
    for (let i = 0; (reading?.cpu?.usageNs ?? 0n) < 10_000_000n; i++) {
      assert.ok(i < 100, 'no CPU time after 5 s');
      await sleep(50);
      reading = readCgroup({ v1: {}, unified: folder }, true);
    }
    assert.ok(reading?.cpu);
    assert.ok(reading.cpu.usageNs >= reading.cpu.userNs);
    if (existsSync(join(folder, 'cpu.pressure'))) assert.ok(reading.psi.cpu && reading.psi.cpu.some.totalNs >= 0n);
    const [first = 0] = pidsIn(folder);
    assert.deepEqual(cgroupsOfProcess(first)?.unified, folder);
    const { processes, threads, descriptors } = await readProcesses(folder, first);
    assert.ok(processes >= 1n && threads >= processes && descriptors >= 3n);
  } finally {
    for (const process of pidsIn(folder)) libc.kill(process, SIGKILL);
    await child;
    for (let i = 0; pidsIn(folder).length > 0 && i < 100; i++) await sleep(20);
    rmdirSync(folder);
  }
});

test('a container that no longer exists has no stats and is not an error', async () => {
  await sh(runc(`delete -f ${id}`));
  assert.deepEqual(await stats.containers([container()]), []);
  assert.equal(await pool.call('oomKills', { cgroupsPath, pid }), undefined);
  assert.deepEqual(problems, []);
});
