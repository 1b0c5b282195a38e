/** Limits, resizes, statistics, volumes and devices of containers, as the kernel has them. */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type LinuxContainerResources, MountPropagation } from '../../proto/gen/cri.ts';
import { GRPC } from '../../src/errors.ts';
import { builtOrSystem } from '../rig/build.ts';
import { imageSpec, linux, mount, resources } from '../rig/messages.ts';
import { run } from '../rig/proc.ts';
import { buildImage, digestOf, pushImage } from '../rig/push.ts';
import { Rootfs } from '../rig/rootfs.ts';
import {
  BUSYBOX,
  type ContainerLab,
  exited,
  openContainerLab,
  pidOf,
  SKIP,
  SLEEP,
  sh,
  statusOf,
  type TestPod,
} from './container-lab.ts';

const MIB = 1n << 20n;
const V2 = existsSync('/sys/fs/cgroup/cgroup.controllers');

/** A file of the cgroup that a process is in. */
function cgroupFile(pid: number, v1: [controller: string, file: string], v2: string): string {
  const lines = readFileSync(`/proc/${pid}/cgroup`, 'utf8')
    .split('\n')
    .map((line) => line.split(':'));
  if (V2)
    return readFileSync(join('/sys/fs/cgroup', lines.find(([, name]) => name === '')?.[2] ?? '', v2), 'utf8').trim();
  const [controller, file] = v1;
  const found = lines.find(([, names]) => names?.split(',').includes(controller));
  return readFileSync(join('/sys/fs/cgroup', found?.[1] ?? '', found?.[2] ?? '', file), 'utf8').trim();
}
const memoryLimit = (pid: number) => cgroupFile(pid, ['memory', 'memory.limit_in_bytes'], 'memory.max');

describe('containers on the kernel', { skip: SKIP }, () => {
  let lab: ContainerLab;
  let pod: TestPod;
  before(async () => {
    lab = await openContainerLab({ index: 44, writable: true });
    pod = await lab.pod('kernel');
  });
  after(() => lab?.[Symbol.asyncDispose]());

  test('limits, and their change before the start and while it runs', async () => {
    const { cri } = lab;
    const config = { linux: linux({ resources: { memoryLimitInBytes: 64n * MIB, cpuShares: 512n } }) };
    const containerId = await pod.create('sized', SLEEP, config);
    const change = (asked: Partial<LinuxContainerResources>) =>
      cri.updateContainerResources({ containerId, linux: resources(asked) });
    await change({ memoryLimitInBytes: 80n * MIB });
    assert.equal((await statusOf(cri, containerId)).resources?.linux?.memoryLimitInBytes, 80n * MIB);
    await cri.startContainer({ containerId });
    const pid = await pidOf(cri, containerId);
    assert.equal(memoryLimit(pid), `${80n * MIB}`);
    await change({ memoryLimitInBytes: 96n * MIB, cpuQuota: 50_000n, cpuPeriod: 100_000n });
    assert.equal(memoryLimit(pid), `${96n * MIB}`);
    const quota = cgroupFile(pid, ['cpu', 'cpu.cfs_quota_us'], 'cpu.max');
    assert.equal(quota, V2 ? '50000 100000' : '50000');
    const now = (await statusOf(cri, containerId)).resources?.linux;
    assert.deepEqual([now?.memoryLimitInBytes, now?.cpuShares, now?.cpuQuota], [96n * MIB, 512n, 50_000n]);
    await assert.rejects(change({ cpusetCpus: '4096' }), /cpuset/);
    assert.equal(
      (await statusOf(cri, containerId)).resources?.linux?.cpusetCpus,
      '',
      'what the kernel refused is not kept',
    );
    await cri.stopContainer({ containerId, timeout: 0n });
    await change({ memoryLimitInBytes: 128n * MIB });
    await assert.rejects(cri.updateContainerResources({ containerId: 'f'.repeat(64), linux: resources({}) }), {
      code: GRPC.NOT_FOUND,
    });
  });

  test('UpdatePodSandboxResources is remembered and shown', async () => {
    const { cri } = lab;
    const asked = {
      podSandboxId: pod.id,
      resources: resources({ memoryLimitInBytes: 512n * MIB }),
      overhead: undefined,
    };
    await cri.updatePodSandboxResources(asked);
    const { info } = await cri.podSandboxStatus({ podSandboxId: pod.id, verbose: true });
    assert.match(info.info ?? '', new RegExp(`"memory_limit_in_bytes":"?${512n * MIB}`));
    await assert.rejects(cri.updatePodSandboxResources({ ...asked, podSandboxId: 'f'.repeat(64) }), {
      code: GRPC.NOT_FOUND,
    });
  });

  test('statistics: what a container uses is what they say; crictl shows them and all metrics', async (t) => {
    const { cri, daemon } = lab;
    const line =
      'head -c 20000000 /dev/zero > /dev/shm/x; dd if=/dev/zero of=/file bs=1M count=3 2>/dev/null; exec sleep 3600';
    const containerId = await pod.run('used', ['sh', '-c', line]);
    await sh(cri, containerId, 'until [ -s /file ]; do sleep 0.05; done; sleep 0.2');
    const { stats } = await cri.containerStats({ containerId });
    const used = stats?.memory?.usageBytes?.value ?? 0n;
    assert.ok(used >= 19n * MIB && used < 64n * MIB, `memory ${used}`);
    assert.ok((stats?.cpu?.usageCoreNanoSeconds?.value ?? 0n) > 0n);
    assert.ok((stats?.writableLayer?.usedBytes?.value ?? 0n) >= 3n * MIB, `${stats?.writableLayer?.usedBytes?.value}`);
    const { stats: podStats } = await cri.podSandboxStats({ podSandboxId: pod.id });
    assert.ok(podStats?.linux?.containers.some(({ attributes }) => attributes?.id === containerId));
    assert.ok((podStats?.linux?.network?.defaultInterface?.rxBytes?.value ?? -1n) >= 0n);
    const crictl = await builtOrSystem('crictl');
    if (!crictl) return t.diagnostic('no crictl here');
    const call = async (...args: string[]) =>
      (await run(crictl, ['-r', `unix://${daemon.socket}`, '-i', `unix://${daemon.socket}`, ...args])).stdout;
    assert.match(await call('stats', '-o', 'table'), new RegExp(`${containerId.slice(0, 13)}.*used`));
    assert.match(await call('statsp'), new RegExp(pod.id.slice(0, 13)));
    const described = JSON.parse(await call('metricdescs', '-o', 'json')) as { descriptors: { name: string }[] };
    const names = described.descriptors.map(({ name }) => name);
    assert.equal(new Set(names).size, 56);
    const { podMetrics } = JSON.parse(await call('metricsp', '-o', 'json')) as {
      podMetrics: {
        podSandboxId: string;
        containerMetrics: { containerId: string; metrics: { name: string; value: { value: string } }[] }[];
      }[];
    };
    const own = podMetrics.find(({ podSandboxId }) => podSandboxId === pod.id)?.containerMetrics;
    const metrics = new Map(
      own
        ?.find((each) => each.containerId === containerId)
        ?.metrics.map(({ name, value }) => [name, Number(value.value)]),
    );
    for (const [name, least, most] of [
      ['container_threads', 1, 20],
      ['container_processes', 1, 20],
      ['container_memory_usage_bytes', 19 * 2 ** 20, 64 * 2 ** 20],
      ['container_start_time_seconds', Date.now() / 1000 - 600, Date.now() / 1000 + 1],
      ['container_last_seen', Date.now() / 1000 - 60, Date.now() / 1000 + 1],
      ['container_spec_cpu_shares', 2, 1024],
    ] as const) {
      const value = metrics.get(name) ?? Number.NaN;
      assert.ok(value >= least && value <= most, `${name} is ${value}`);
    }
  });

  test('an image volume, with a folder of it, and what is refused', async () => {
    const { cri } = lab;
    const layer = new Rootfs()
      .file('data/file', 'in the image')
      .file('data/deep/inner', 'inner')
      .raw('data/out', '2', '', '/etc');
    const { id: imageId } = await pushImage(lab.registry.address, 'kernel/volume:1', { layers: [layer.done()] });
    const ref = 'docker.io/kernel/volume:1';
    await lab.pull(ref);
    const volume = (containerPath: string, imageSubPath = '', image = ref) =>
      mount({ containerPath, readonly: true, image: imageSpec(image), imageSubPath });
    const containerId = await pod.run('volumes', SLEEP, { mounts: [volume('/all'), volume('/part', 'data/deep')] });
    assert.equal(await sh(cri, containerId, 'cat /all/data/file /part/inner'), 'in the imageinner');
    assert.match(await sh(cri, containerId, 'touch /all/x 2>&1; true'), /Read-only/);
    const { mounts } = await statusOf(cri, containerId);
    assert.deepEqual(
      mounts.map(({ image }) => image?.imageRef),
      [imageId, imageId],
    );
    const refused = (at: ReturnType<typeof mount>) =>
      assert.rejects(pod.create('no', SLEEP, { mounts: [at] }), /ImageVolumeMountFailed|image|readonly/);
    await refused(volume('/x', 'data/nonesuch'));
    await refused(volume('/x', 'data/out'));
    await refused(volume('/x', '../../..//data/file'));
    await refused(volume('/x', '', 'docker.io/kernel/absent:1'));
    await refused({ ...volume('/x'), readonly: false });
  });

  test('an OCI artifact is mounted as an image volume: its layers are files; it is not run', async () => {
    const { cri } = lab;
    const files = { 'weights/model.bin': randomBytes(3 << 20), 'README.md': Buffer.from('# a model\n') };
    const layers = Object.values(files).map((blob) => ({ tar: blob, blob }));
    const { blobs, id } = buildImage({ layers });
    const descriptors = Object.entries(files).map(([title, blob]) => ({
      mediaType: 'application/vnd.example.model',
      digest: digestOf(blob),
      size: blob.length,
      annotations: { 'org.opencontainers.image.title': title },
    }));
    const config = { mediaType: 'application/vnd.example.config', digest: id, size: blobs.get(id)?.length };
    const artifactType = 'application/vnd.example.artifact';
    await pushImage(lab.registry.address, 'kernel/model:1', {
      layers,
      manifest: { artifactType, config, layers: descriptors },
    });
    const ref = 'docker.io/kernel/model:1';
    const imageRef = await lab.pull(ref);
    const volume = (containerPath: string, imageSubPath = '') =>
      mount({ containerPath, readonly: true, image: imageSpec(ref), imageSubPath });
    const mounts = [volume('/model'), volume('/part', 'weights')];
    const containerId = await pod.run('artifact', SLEEP, { mounts });
    const sum = createHash('sha256').update(files['weights/model.bin']).digest('hex');
    assert.equal(
      await sh(cri, containerId, 'cat /model/README.md; sha256sum /model/weights/model.bin /part/model.bin'),
      `# a model\n${sum}  /model/weights/model.bin\n${sum}  /part/model.bin`,
    );
    assert.equal(await sh(cri, containerId, 'stat -c "%a %u:%g" /model/weights/model.bin'), '644 0:0');
    assert.match(await sh(cri, containerId, 'rm /model/README.md 2>&1; true'), /Read-only/);
    const status = await statusOf(cri, containerId);
    assert.deepEqual(
      status.mounts.map(({ image }) => image?.imageRef),
      [imageRef, imageRef],
    );
    await assert.rejects(pod.create('run-it', SLEEP, {}, ref), /artifact/);
  });

  test('VOLUMEs of an image get what it has there, with owners and modes, for each container anew', async () => {
    const { cri } = lab;
    const shell = new Rootfs().file('bin/busybox', readFileSync('/bin/busybox'), 0o755);
    for (const applet of ['sh', 'stat', 'cat', 'sleep']) shell.hardLink(`bin/${applet}`, 'bin/busybox');
    const data = new Rootfs().directory('data', 0o1770).file('data/file', 'copied', 0o640);
    await pushImage(lab.registry.address, 'kernel/declares:1', {
      layers: [shell.done(), data.done()],
      config: { Volumes: { '/data': {}, '/absent/one': {}, '/covered': {} }, Env: ['PATH=/bin'] },
    });
    const ref = 'docker.io/kernel/declares:1';
    await lab.pull(ref);
    const host = join(lab.folder, 'covered');
    mkdirSync(host);
    writeFileSync(join(host, 'mine'), 'mine');
    const config = { mounts: [mount({ containerPath: '/covered', hostPath: host })] };
    const one = await pod.run('vol-1', SLEEP, config, ref);
    const two = await pod.run('vol-2', SLEEP, config, ref);
    assert.equal(
      await sh(cri, one, 'stat -c %a /data; cat /data/file /covered/mine; echo changed > /data/file'),
      '1770\ncopiedmine',
    );
    assert.equal(await sh(cri, two, 'cat /data/file; stat -c %F /absent/one'), 'copieddirectory');
  });

  test('mounts and devices', async () => {
    const { cri } = lab;
    const host = join(lab.folder, 'host');
    mkdirSync(host);
    const containerId = await pod.run('devices', SLEEP, {
      mounts: [
        mount({ containerPath: '/ro', hostPath: host, readonly: true }),
        mount({ containerPath: '/rw', hostPath: host }),
        mount({ containerPath: '/made', hostPath: join(host, 'absent') }),
      ],
      devices: [{ hostPath: '/dev/null', containerPath: '/dev/mine', permissions: 'rw' }],
    });
    await sh(cri, containerId, 'echo x > /rw/file; echo y > /dev/mine; cat /ro/file');
    assert.match(await sh(cri, containerId, 'touch /ro/no 2>&1; true'), /Read-only/);
    assert.match(await sh(cri, containerId, 'ls -l /dev/mine'), /1,\s+3/);
    await sh(cri, containerId, 'echo x > /made/file');
    assert.ok(existsSync(join(host, 'absent', 'file')), 'a host path that does not exist is made');
    const refused = (change: Parameters<typeof mount>[0], words: RegExp) =>
      assert.rejects(
        pod.create('no', SLEEP, { mounts: [mount({ containerPath: '/x', hostPath: host, ...change })] }),
        words,
      );
    await refused({ hostPath: join(host, 'file', 'below-a-file') }, /below-a-file/);
    await refused({ recursiveReadOnly: true }, /read.?only/i);
    await refused(
      { recursiveReadOnly: true, readonly: true, propagation: MountPropagation.PROPAGATION_HOST_TO_CONTAINER },
      /read.?only/i,
    );
    await refused({ containerPath: '' }, /container_path/);
  });

  test('a pod that is not ready takes no containers, and ends those it has', async () => {
    const { cri } = lab;
    await using other = await lab.pod('gone');
    const made = await other.create('made', SLEEP);
    await cri.stopPodSandbox({ podSandboxId: other.id });
    await assert.rejects(other.create('late', SLEEP), { code: GRPC.FAILED_PRECONDITION });
    await assert.rejects(cri.startContainer({ containerId: made }), { code: GRPC.FAILED_PRECONDITION });
    await assert.rejects(pod.create('x', SLEEP, {}, 'docker.io/kernel/absent:1'), { code: GRPC.NOT_FOUND });
    const fine = await pod.run('fine', ['true'], {}, BUSYBOX);
    assert.equal((await exited(cri, fine)).exitCode, 0);
  });

  test('nothing is left', async () => {
    await pod[Symbol.asyncDispose]();
    await lab.daemon.assertNothingLeft();
  });
});
