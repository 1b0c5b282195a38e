/**
 * What most nodes have and a plain container to develop in has not: cgroup v2 with the systemd driver, and AppArmor.
 * `node test/rig/vm/run.ts` runs this in a VM.
 */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, statfsSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { CgroupDriver, MetricType } from '../../proto/gen/cri.ts';
import { linux, resources } from '../rig/messages.ts';
import { SYSTEMD } from '../rig/paths.ts';
import { run, waitFor } from '../rig/proc.ts';
import { type ContainerLab, exited, openContainerLab, pidOf, SKIP, SLEEP, sh, type TestPod } from './container-lab.ts';

const CGROUP = '/sys/fs/cgroup';
const CGROUP2_MAGIC = 0x63677270;
const MIB = 1n << 20n;
const V2 = existsSync(CGROUP) && statfsSync(CGROUP).type === CGROUP2_MAGIC;
const APPARMOR = existsSync('/sys/kernel/security/apparmor/profiles');
const skip = SKIP || (SYSTEMD && V2 ? false : 'needs systemd as PID 1 and cgroup v2');
/** The VM of the workplace is emulated: everything takes ten times as long. */
const PATIENCE_MS = 120_000;

/** Names of all scopes that systemd knows and that are ours. */
async function scopes(): Promise<string[]> {
  const { stdout } = await run('systemctl', ['list-units', '--all', '--plain', '--no-legend', 'sluice-*.scope']);
  return stdout.split('\n').flatMap((line) => line.trim().split(/\s+/)[0] || []);
}

describe('cgroup v2 with systemd', { skip }, () => {
  let lab: ContainerLab;
  let pod: TestPod;
  let slice: string;
  let folder: string;
  before(async () => {
    lab = await openContainerLab({ index: 46 });
    const top = lab.daemon.cgroupParent.replace(/\.slice$/, '');
    // As the kubelet names them: a slice in a slice, by the last part of its path.
    slice = `/${top}.slice/${top}-pod1.slice`;
    folder = join(CGROUP, slice);
    pod = await lab.pod('systemd', { cgroupParent: slice });
  });
  after(async () => {
    await lab?.[Symbol.asyncDispose]();
    // Slices belong to who names them: the kubelet, or here the test.
    if (slice) await run('systemctl', ['stop', slice.split('/')[1] ?? ''], { check: false });
  });

  const scopeOf = (id: string) => join(folder, `sluice-${id}.scope`);
  const file = (id: string, name: string) => readFileSync(join(scopeOf(id), name), 'utf8').trim();

  test('"auto" is systemd, and the kubelet is told', async () => {
    const { linux } = await lab.cri.runtimeConfig();
    assert.equal(linux?.cgroupDriver, CgroupDriver.SYSTEMD);
    assert.deepEqual(await scopes(), [`sluice-${pod.id}.scope`]);
    assert.ok(existsSync(scopeOf(pod.id)));
  });

  test('limits are in the scope and in its unit; an update in place changes both and keeps the rest', async () => {
    const id = await pod.run('limits', SLEEP, {
      linux: linux({
        resources: {
          memoryLimitInBytes: 64n * MIB,
          cpuShares: 512n,
          cpuQuota: 50_000n,
          cpuPeriod: 100_000n,
          cpusetCpus: '0',
          oomScoreAdj: -500n,
          unified: { 'pids.max': '77', 'memory.high': `${60n * MIB}` },
        },
      }),
    });
    const shown = () =>
      ['memory.max', 'memory.high', 'cpu.max', 'cpuset.cpus', 'pids.max'].map((name) => file(id, name));
    assert.deepEqual(shown(), [`${64n * MIB}`, `${60n * MIB}`, '50000 100000', '0', '77']);
    const weight = file(id, 'cpu.weight');
    if (existsSync(join(scopeOf(id), 'memory.swap.max'))) assert.equal(file(id, 'memory.swap.max'), '0');
    assert.equal(readFileSync(`/proc/${await pidOf(lab.cri, id)}/oom_score_adj`, 'utf8').trim(), '-500');

    await lab.cri.updateContainerResources({
      containerId: id,
      linux: resources({ memoryLimitInBytes: 96n * MIB, cpuQuota: 70_000n }),
    });
    assert.deepEqual(shown(), [`${96n * MIB}`, `${60n * MIB}`, '70000 100000', '0', '77']);
    assert.equal(file(id, 'cpu.weight'), weight);
    // systemd writes its own values again at a daemon-reload: it must have been told too.
    const { stdout } = await run('systemctl', ['show', '-p', 'MemoryMax', `sluice-${id}.scope`]);
    assert.equal(stdout.trim(), `MemoryMax=${96n * MIB}`);
    const { status } = await lab.cri.containerStatus({ containerId: id });
    assert.equal(status?.resources?.linux?.memoryLimitInBytes, 96n * MIB);
    await lab.cri.removeContainer({ containerId: id });
  });

  test('stats of container and pod are what the files say', async () => {
    const id = await pod.run('stats', ['sh', '-c', 'dd if=/dev/zero of=/dev/shm/x bs=1M count=8; exec sleep 3600'], {
      linux: linux({ resources: { memoryLimitInBytes: 64n * MIB } }),
    });
    await waitFor('the container’s files', PATIENCE_MS, () => Number(file(id, 'memory.current')) > 8 << 20);
    const { stats } = await lab.cri.containerStats({ containerId: id });
    assert.ok(stats?.memory && stats.cpu && stats.swap);
    assert.ok((stats.memory.usageBytes?.value ?? 0n) > 8n * MIB);
    const working = stats.memory.workingSetBytes?.value ?? 0n;
    assert.equal((stats.memory.availableBytes?.value ?? 0n) + working, 64n * MIB);
    const used = BigInt(/usage_usec (\d+)/.exec(file(id, 'cpu.stat'))?.[1] ?? 0) * 1000n;
    const told = stats.cpu.usageCoreNanoSeconds?.value ?? 0n;
    assert.ok(told > 0n && told <= used, `${told} of ${used}`);

    const { stats: ofPod } = await lab.cri.podSandboxStats({ podSandboxId: pod.id });
    assert.ok((ofPod?.linux?.memory?.usageBytes?.value ?? 0n) >= 8n * MIB, 'the pod’s slice is counted');
    assert.equal(ofPod?.linux?.containers.length, 1);
    const { podMetrics } = await lab.cri.listPodSandboxMetrics();
    const metrics = podMetrics[0]?.containerMetrics[0]?.metrics ?? [];
    const limit = metrics.find(({ name }) => name === 'container_spec_memory_limit_bytes');
    assert.deepEqual([limit?.metricType, limit?.value?.value], [MetricType.GAUGE, 64n * MIB]);
    await lab.cri.removeContainer({ containerId: id });
  });

  test('OOMKilled, though systemd takes the scope away at once; a SIGKILL of others is no OOM kill', async () => {
    const limits = linux({ resources: { memoryLimitInBytes: 16n * MIB } });
    for (let i = 0; i < 3; i++) {
      const id = await pod.run(`oom-${i}`, ['dd', 'if=/dev/zero', 'of=/dev/null', 'bs=64M'], { linux: limits });
      const { exitCode, reason } = await exited(lab.cri, id, PATIENCE_MS);
      assert.deepEqual([exitCode, reason], [137, 'OOMKilled']);
      await lab.cri.removeContainer({ containerId: id });
    }
    const id = await pod.run('killed', SLEEP, { linux: limits });
    process.kill(await pidOf(lab.cri, id), 'SIGKILL');
    const { exitCode, reason } = await exited(lab.cri, id, PATIENCE_MS);
    assert.deepEqual([exitCode, reason], [137, 'Error']);
    await lab.cri.removeContainer({ containerId: id });
  });

  test('the container sees its own cgroup alone, and may only read it', async () => {
    const id = await pod.run('view', SLEEP);
    assert.equal(await sh(lab.cri, id, 'cat /proc/self/cgroup'), '0::/');
    assert.equal(await sh(lab.cri, id, 'cat /sys/fs/cgroup/cgroup.procs | head -1'), '1');
    await assert.rejects(sh(lab.cri, id, 'mkdir /sys/fs/cgroup/x'), /Read-only file system/);
    await lab.cri.removeContainer({ containerId: id });
  });

  test('AppArmor: the default profile without a word', {
    skip: APPARMOR ? false : 'no AppArmor here',
  }, async () => {
    const id = await pod.run('apparmor', SLEEP);
    assert.equal(await sh(lab.cri, id, 'cat /proc/self/attr/current'), 'sluice-default (enforce)');
    // The rig's containers have no read-only paths: only the profile stands before these. What is written is what was
    // read.
    const writes = (path: string) => sh(lab.cri, id, `x=$(cat ${path}) && echo "$x" > ${path}`);
    for (const name of ['sysrq', 'sem', 'core_pattern', 'threads-max']) {
      await assert.rejects(writes(`/proc/sys/kernel/${name}`), /Permission denied/, name);
    }
    await assert.rejects(writes('/proc/sys/vm/swappiness'), /Permission denied/);
    await assert.rejects(sh(lab.cri, id, 'echo x > /proc/bus/pci/devices'), /Permission denied/);
    await assert.rejects(sh(lab.cri, id, 'echo x > /sys/kernel/uevent_seqnum'), /Permission denied|Read-only/);
    await writes('/proc/sys/kernel/shmmax');
    await writes('/proc/self/oom_score_adj');
    await lab.cri.removeContainer({ containerId: id });
  });

  test('a parent that is no slice is refused', async () => {
    await assert.rejects(lab.pod('wrong', { cgroupParent: '/kubepods/pod1' }), /is not a systemd slice/);
  });

  test('after the removal no scope is left, in systemd or in the file system, and nothing failed', async () => {
    await pod.run('last', SLEEP);
    await pod.run('last-but-one', ['sh', '-c', 'exit 3']);
    await pod[Symbol.asyncDispose]();
    await waitFor('the scopes to go', PATIENCE_MS, async () => (await scopes()).length === 0);
    const left = readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isDirectory());
    assert.deepEqual(left, []);
    const { stdout } = await run('systemctl', ['list-units', '--failed', '--plain', '--no-legend', 'sluice*']);
    assert.equal(stdout, '');
    await run('systemctl', ['stop', slice.split('/')[2] ?? '']);
    await lab.daemon.assertNothingLeft(PATIENCE_MS);
  });
});
