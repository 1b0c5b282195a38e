/**
 * A launch whose caller left is finished and waits claim_ttl for a retry. Any use of its id in between claims it,
 * because a kubelet that restarts during a launch adopts the ready sandbox that it lists and never calls RunPodSandbox
 * again.
 */
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { GRPC } from '../../src/errors.ts';
import { imageRegistry } from '../rig/images.ts';
import { containerConfig, podConfig } from '../rig/messages.ts';
import { privateFolder } from '../rig/paths.ts';
import { waitFor } from '../rig/proc.ts';
import type { Registry } from '../rig/registry.ts';
import { type Lab, openLab, SKIP_WITH_REGISTRY } from './lab.ts';

const skip = SKIP_WITH_REGISTRY;
const BUSYBOX = 'docker.io/library/busybox:latest';
const CLAIM_TTL_MS = 2000;
const READY = 0;

let lab: Lab;
let folder: string;
let registry: Registry;
before(async () => {
  if (skip) return;
  folder = privateFolder('sluice-claim');
  registry = await imageRegistry(folder);
  lab = await openLab({
    index: 19,
    registry,
    keepImages: [BUSYBOX],
    config: { pipeline: { claim_ttl_seconds: CLAIM_TTL_MS / 1000 } },
  });
});
after(async () => {
  await lab?.[Symbol.asyncDispose]();
  await registry?.stop();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

const config = (name: string) => podConfig(name, { cgroupParent: lab.daemon.cgroupParent });

/**
 * Calls RunPodSandbox with a deadline that passes during the launch, and returns the id that the list then shows as
 * ready.
 */
async function leftLaunch(name: string): Promise<string> {
  const { cri } = lab.daemon;
  lab.plugin.mode('takes a second');
  await assert.rejects(cri.runPodSandbox({ config: config(name) }, { timeoutMs: 500 }), {
    code: GRPC.DEADLINE_EXCEEDED,
  });
  const ready = await waitFor('the launch to finish without its caller', 10_000, async () => {
    const { items } = await cri.listPodSandbox();
    return items.find((item) => item.metadata?.name === name && item.state === READY);
  });
  lab.plugin.mode('works');
  return ready.id;
}

const listed = async (id: string) => (await lab.daemon.cri.listPodSandbox()).items.some((item) => item.id === id);

test('a pod that nobody uses is removed after claim_ttl', { skip }, async () => {
  const id = await leftLaunch('unclaimed');
  await waitFor('its removal', CLAIM_TTL_MS + 8000, async () => ((await listed(id)) ? undefined : true));
  await lab.assertSound();
});

test('a kubelet that lists the pod after its restart and uses it keeps it, with the container it makes', {
  skip,
}, async () => {
  const { cri } = lab.daemon;
  const podSandboxId = await leftLaunch('adopted');
  assert.equal((await cri.podSandboxStatus({ podSandboxId })).status?.state, READY);
  const container = containerConfig('adopted', BUSYBOX, ['sleep', '600']);
  const { containerId } = await cri.createContainer({
    podSandboxId,
    config: container,
    sandboxConfig: config('adopted'),
  });
  await cri.startContainer({ containerId });
  await sleep(CLAIM_TTL_MS + 1500);
  assert.equal((await cri.podSandboxStatus({ podSandboxId })).status?.state, READY);
  assert.equal((await cri.containerStatus({ containerId })).status?.state, 1, 'running');
  await lab.stopAndRemove(podSandboxId);
  await lab.assertSound();
});

test('a retry gets the id also when its status was asked for in between', { skip }, async () => {
  const { cri } = lab.daemon;
  const podSandboxId = await leftLaunch('retried');
  await cri.podSandboxStatus({ podSandboxId });
  assert.deepEqual(await cri.runPodSandbox({ config: config('retried') }), { podSandboxId });
  await sleep(CLAIM_TTL_MS + 1500);
  assert.ok(await listed(podSandboxId));
  await lab.stopAndRemove(podSandboxId);
  await lab.assertSound();
});

test('a daemon that is killed meanwhile finds the pod again and keeps it', { skip }, async () => {
  const id = await leftLaunch('killed');
  await lab.daemon.stop('SIGKILL');
  await lab.daemon.start();
  await sleep(CLAIM_TTL_MS + 1500);
  assert.ok(await listed(id));
  await lab.stopAndRemove(id);
  await lab.assertSound();
});

test('a container whose creation lost its caller is kept once it is used', { skip }, async () => {
  const { cri } = lab.daemon;
  const podSandboxId = await lab.launch('busy');
  const sandboxConfig = config('busy');
  const request = { podSandboxId, config: containerConfig('busy', BUSYBOX, ['sleep', '600']), sandboxConfig };
  const gone = new AbortController();
  const call = cri.createContainer(request, { signal: gone.signal });
  setTimeout(() => gone.abort(), 5);
  const done = await call.then(
    () => true,
    () => false,
  );
  const { containers } = await waitFor('the container', 5000, async () => {
    const list = await cri.listContainers();
    return list.containers.length > 0 ? list : undefined;
  });
  const containerId = containers[0]?.id ?? '';
  await cri.containerStatus({ containerId });
  await sleep(CLAIM_TTL_MS + 1500);
  assert.equal((await cri.listContainers()).containers.length, 1, `kept (the call had ${done ? 'an' : 'no'} answer)`);
  await lab.stopAndRemove(podSandboxId);
  await lab.assertSound();
});

test('a pod whose StopPodSandbox fails in its network is not ready, and takes no container', { skip }, async () => {
  const { cri } = lab.daemon;
  const podSandboxId = await lab.launch('half');
  lab.plugin.mode('refuses DEL');
  await assert.rejects(cri.stopPodSandbox({ podSandboxId }), /the rig says no/);
  assert.notEqual((await cri.podSandboxStatus({ podSandboxId })).status?.state, READY);
  const container = containerConfig('half', BUSYBOX, ['sleep', '600']);
  await assert.rejects(cri.createContainer({ podSandboxId, config: container, sandboxConfig: config('half') }), {
    code: GRPC.FAILED_PRECONDITION,
  });
  lab.plugin.mode('works');
  await lab.stopAndRemove(podSandboxId);
  await lab.assertSound();
});
