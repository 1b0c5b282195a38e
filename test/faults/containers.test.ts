import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { ContainerConfig } from '../../proto/gen/cri.ts';
import { GRPC } from '../../src/errors.ts';
import { imageRegistry } from '../rig/images.ts';
import { containerConfig, imageSpec, linux, mount, podConfig } from '../rig/messages.ts';
import { privateFolder } from '../rig/paths.ts';
import { waitFor } from '../rig/proc.ts';
import type { Registry } from '../rig/registry.ts';
import { type Lab, openLab, SKIP_WITH_REGISTRY } from './lab.ts';

const skip = SKIP_WITH_REGISTRY;
const BUSYBOX = 'docker.io/library/busybox:latest';
const SLEEP = ['sleep', '3600'];

let lab: Lab;
let folder: string;
let logs: string;
let registry: Registry;

before(async () => {
  if (skip) return;
  folder = privateFolder('sluice-ctr');
  logs = join(folder, 'logs');
  mkdirSync(logs);
  registry = await imageRegistry(folder);
  lab = await openLab({ index: 17, registry, keepImages: [BUSYBOX] });
});
after(async () => {
  await lab?.[Symbol.asyncDispose]();
  await registry?.stop();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

const pod = (name: string) => podConfig(name, { cgroupParent: lab.daemon.cgroupParent, logDirectory: logs });

async function create(podSandboxId: string, podName: string, config: ContainerConfig): Promise<string> {
  const request = { podSandboxId, config, sandboxConfig: pod(podName) };
  return (await lab.daemon.cri.createContainer(request)).containerId;
}

/** Launches a pod for the test and takes it away afterwards; then the node must be sound. */
async function inPod(name: string, body: (id: string, podName: string) => Promise<void>): Promise<void> {
  const { podSandboxId } = await lab.daemon.cri.runPodSandbox({ config: pod(name) });
  try {
    await body(podSandboxId, name);
  } finally {
    await lab.stopAndRemove(podSandboxId);
  }
  await lab.assertSound();
}

const BAD: [what: string, change: () => Partial<ContainerConfig>, words: RegExp][] = [
  ['no metadata', () => ({ metadata: undefined }), /metadata/],
  ['an image that is not on the node', () => ({ image: imageSpec('example.com/nonesuch:1') }), /nonesuch/],
  ['a log path that leads out of the log directory', () => ({ logPath: '../../escape.log' }), /log/i],
  [
    'a mount whose source cannot be made',
    () => ({ mounts: [mount({ containerPath: '/mnt', hostPath: '/proc/nonesuch/source' })] }),
    /nonesuch\/source/,
  ],
  [
    'a group without a user',
    () => ({ linux: linux({ security: { runAsGroup: { value: 1000n } } }) }),
    /group.*user|user.*group/,
  ],
  [
    'a user name that the image does not know',
    () => ({ linux: linux({ security: { runAsUsername: 'nobody-knows-me' } }) }),
    /nobody-knows-me/,
  ],
  [
    'a recursive read-only mount that is not read-only',
    () => ({
      mounts: [mount({ containerPath: '/mnt', hostPath: '/tmp', recursiveReadOnly: true, readonly: false })],
    }),
    /read.?only/i,
  ],
];
for (const [what, change, words] of BAD) {
  test(`a container with ${what} is refused by CreateContainer, and its name is free again`, { skip }, async () => {
    await inPod('bad', async (id, name) => {
      const config = { ...containerConfig('c', BUSYBOX, SLEEP), ...change() };
      await assert.rejects(create(id, name, config), words);
      await create(id, name, containerConfig('c', BUSYBOX, SLEEP));
    });
    assert.equal(existsSync(join(folder, 'escape.log')), false);
  });
}

test('unknown ids: NotFound, but stop and remove succeed', { skip }, async () => {
  const { cri } = lab.daemon;
  const containerId = 'e'.repeat(64);
  await assert.rejects(cri.containerStatus({ containerId }), { code: GRPC.NOT_FOUND });
  await assert.rejects(cri.startContainer({ containerId }), { code: GRPC.NOT_FOUND });
  await assert.rejects(cri.execSync({ containerId, cmd: ['true'] }), { code: GRPC.NOT_FOUND });
  await assert.rejects(cri.containerStats({ containerId }), { code: GRPC.NOT_FOUND });
  await assert.rejects(cri.reopenContainerLog({ containerId }), { code: GRPC.NOT_FOUND });
  await assert.rejects(create('f'.repeat(64), 'x', containerConfig('c', BUSYBOX, SLEEP)), { code: GRPC.NOT_FOUND });
  await cri.stopContainer({ containerId });
  await cri.removeContainer({ containerId });
});

test('a container in a pod that is stopped', { skip }, async () => {
  await inPod('stopped', async (id, name) => {
    await lab.daemon.cri.stopPodSandbox({ podSandboxId: id });
    await assert.rejects(create(id, name, containerConfig('c', BUSYBOX, SLEEP)), { code: GRPC.FAILED_PRECONDITION });
  });
});

test('a program that is not in the image: StartError with 128, and the container can be removed', {
  skip,
}, async () => {
  await inPod('nothere', async (id, name) => {
    const { cri } = lab.daemon;
    const containerId = await create(id, name, containerConfig('c', BUSYBOX, ['/no/such/program']));
    await assert.rejects(cri.startContainer({ containerId }), /no\/such\/program/);
    const { status } = await cri.containerStatus({ containerId });
    assert.equal(status?.state, 2, 'exited');
    assert.equal(status?.exitCode, 128);
    assert.equal(status?.reason, 'StartError');
    await cri.removeContainer({ containerId });
  });
});

test('memory that no process fits into', { skip }, async () => {
  await inPod('tiny', async (id, name) => {
    const { cri } = lab.daemon;
    const config = {
      ...containerConfig('c', BUSYBOX, SLEEP),
      linux: linux({ resources: { memoryLimitInBytes: 4096n } }),
    };
    const failed = await create(id, name, config).then(
      async (containerId) => {
        await assert.rejects(cri.startContainer({ containerId }));
        await cri.removeContainer({ containerId });
      },
      (error: Error) => assert.match(error.message, /memory|limit|killed|init/i),
    );
    assert.equal(failed, undefined);
  });
});

test('start twice, exec in a container that is over, and a reopened log that is not there', { skip }, async () => {
  await inPod('order', async (id, name) => {
    const { cri } = lab.daemon;
    const config = containerConfig('c', BUSYBOX, ['sh', '-c', 'echo once; exit 7'], { logPath: 'c.log' });
    const containerId = await create(id, name, config);
    await assert.rejects(cri.execSync({ containerId, cmd: ['true'] }), { code: GRPC.FAILED_PRECONDITION });
    await cri.startContainer({ containerId });
    const ended = await waitFor('the container to end', 10_000, async () => {
      const { status } = await cri.containerStatus({ containerId });
      return status?.state === 2 ? status : undefined;
    });
    assert.equal(ended.exitCode, 7);
    assert.match(readFileSync(join(logs, 'c.log'), 'utf8'), /^\S+ stdout F once\n$/);
    await assert.rejects(cri.startContainer({ containerId }), { code: GRPC.FAILED_PRECONDITION });
    await assert.rejects(cri.execSync({ containerId, cmd: ['true'] }), { code: GRPC.FAILED_PRECONDITION });
    rmSync(join(logs, 'c.log'));
    await assert.rejects(cri.reopenContainerLog({ containerId }));
    assert.equal(existsSync(join(logs, 'c.log')), false);
  });
});

test('ExecSync that outlives its timeout is killed with its children', { skip }, async () => {
  await inPod('exec', async (id, name) => {
    const { cri } = lab.daemon;
    const containerId = await create(id, name, containerConfig('c', BUSYBOX, SLEEP));
    await cri.startContainer({ containerId });
    const cmd = ['sh', '-c', 'sleep 7777 & sleep 8888; true'];
    await assert.rejects(cri.execSync({ containerId, cmd, timeout: 1n }), { code: GRPC.DEADLINE_EXCEEDED });
    const { stdout } = await cri.execSync({ containerId, cmd: ['ps'], timeout: 10n });
    assert.doesNotMatch(Buffer.from(stdout).toString(), /7777|8888/);
  });
});
