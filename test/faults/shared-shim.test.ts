/**
 * Pods without a pause process that share shims (`pods_per_shim`): what is shared, what ends together, and what does
 * not.
 */
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { ContainerState, PodSandboxState } from '../../proto/gen/cri.ts';
import { imageRegistry } from '../rig/images.ts';
import { containerConfig, podConfig } from '../rig/messages.ts';
import { privateFolder, ROOT } from '../rig/paths.ts';
import { run as command, processesOf, waitFor } from '../rig/proc.ts';
import type { Registry } from '../rig/registry.ts';
import { type Lab, openLab, SKIP_WITH_REGISTRY } from './lab.ts';

const skip = SKIP_WITH_REGISTRY;
const BUSYBOX = 'docker.io/library/busybox:latest';
const SHARE = 3;

let lab: Lab;
let folder: string;
let registry: Registry;
before(async () => {
  if (skip) return;
  folder = privateFolder('sluice-shared');
  registry = await imageRegistry(folder);
  lab = await openLab({
    index: 24,
    registry,
    keepImages: [BUSYBOX],
    config: { runtimes: { runc: { sandbox_mode: 'pinned', pods_per_shim: SHARE } } },
  });
});
after(async () => {
  await lab?.[Symbol.asyncDispose]();
  await registry?.stop();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

const shims = () => processesOf(lab.folder).filter(({ command }) => /containerd-shim-runc-v2 -namespace/.test(command));

interface Running {
  pod: string;
  container: string;
}

/** What `sluice top` shows. */
async function top(): Promise<string> {
  const sluice = join(ROOT, 'bin/sluice');
  return (await command(sluice, ['top', '--once', '--metrics', lab.daemon.metrics])).stdout;
}

/** A pod with one running container. */
async function run(name: string): Promise<Running> {
  const pod = await lab.launch(name);
  return { pod, container: await addTo(pod, name) };
}

async function addTo(podSandboxId: string, name: string, attempt = 0): Promise<string> {
  const { cri } = lab.daemon;
  const sandboxConfig = podConfig(name, { cgroupParent: lab.daemon.cgroupParent });
  const config = containerConfig('c', BUSYBOX, ['sleep', '3600'], { metadata: { name: 'c', attempt } });
  const { containerId } = await cri.createContainer({ podSandboxId, config, sandboxConfig });
  await cri.startContainer({ containerId });
  return containerId;
}

const stateOf = async (containerId: string) => (await lab.daemon.cri.containerStatus({ containerId })).status?.state;
const podState = async (podSandboxId: string) =>
  (await lab.daemon.cri.podSandboxStatus({ podSandboxId })).status?.state;

test('five pods have two shims; they outlive their first pods and the daemon, and end with their last', {
  skip,
}, async () => {
  const all = await Promise.all(Array.from({ length: 2 * SHARE - 1 }, (_, i) => run(`share-${i}`)));
  assert.equal(shims().length, 2);
  assert.match(await top(), /shims of runc: 2 {3}1 with 3 pods {3}1 with 2 pods/);
  // Each shim's own pod, under whose id it was started, goes first.
  const leaders = all.filter(({ pod }) => shims().some(({ command }) => command.includes(pod)));
  assert.equal(leaders.length, 2);
  for (const { pod } of leaders) await lab.stopAndRemove(pod);
  const rest = all.filter((one) => !leaders.includes(one));
  for (const { container } of rest) assert.equal(await stateOf(container), ContainerState.CONTAINER_RUNNING);
  assert.equal(shims().length, 2);
  await lab.daemon.stop('SIGKILL');
  await lab.daemon.start();
  for (const { container } of rest) {
    assert.equal(await stateOf(container), ContainerState.CONTAINER_RUNNING);
    const { exitCode } = await lab.daemon.cri.execSync({ containerId: container, cmd: ['true'], timeout: 10n });
    assert.equal(exitCode, 0);
  }
  await Promise.all(rest.map(({ pod }) => lab.stopAndRemove(pod)));
  await waitFor('the shims to end', 5000, () => shims().length === 0 || undefined);
  await lab.assertSound(20_000); // the keeper of the killed daemon's FIFOs ends with its last one
});

test('a shared shim that is killed ends the containers of its pods, which stay ready and take new ones', {
  skip,
}, async () => {
  const all = await Promise.all(Array.from({ length: SHARE }, (_, i) => run(`dies-${i}`)));
  const [shim, ...others] = shims();
  assert.ok(shim && others.length === 0, 'one shim for all');
  process.kill(shim.pid, 'SIGKILL');
  for (const { pod, container } of all) {
    await waitFor('the container to have exited', 15_000, async () =>
      (await stateOf(container)) === ContainerState.CONTAINER_EXITED ? true : undefined,
    );
    assert.equal((await lab.daemon.cri.containerStatus({ containerId: container })).status?.exitCode, 255);
    assert.equal(await podState(pod), PodSandboxState.SANDBOX_READY);
  }
  const again = await Promise.all(all.map(({ pod }, i) => addTo(pod, `dies-${i}`, 1)));
  for (const container of again) assert.equal(await stateOf(container), ContainerState.CONTAINER_RUNNING);
  assert.equal(shims().length, 1);
  for (const { pod } of all) await lab.stopAndRemove(pod);
  await lab.assertSound();
});
