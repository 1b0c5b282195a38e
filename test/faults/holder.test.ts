/** Where the IPC and UTS namespaces of pods without a process are held: the mount namespace of src/sys/holder.ts. */
import assert from 'node:assert/strict';
import { existsSync, lstatSync, readlinkSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { HOLDER, namesInHolder } from '../../src/sys/holder.ts';
import { ownProcessors } from '../../src/sys/processors.ts';
import { startSluice } from '../rig/daemon.ts';
import { imageRegistry } from '../rig/images.ts';
import { mountsBelow } from '../rig/leftovers.ts';
import { containerConfig, podConfig } from '../rig/messages.ts';
import { skipUnlessRoot } from '../rig/needs.ts';
import { privateFolder, ROOT } from '../rig/paths.ts';
import { run } from '../rig/proc.ts';
import type { Registry } from '../rig/registry.ts';
import { type Lab, openLab, SKIP_WITH_REGISTRY, writeScript } from './lab.ts';

const skip = SKIP_WITH_REGISTRY;
const BUSYBOX = 'docker.io/library/busybox:latest';

let lab: Lab;
let folder: string;
let registry: Registry;
before(async () => {
  if (skip) return;
  folder = privateFolder('sluice-holder');
  registry = await imageRegistry(folder);
  lab = await openLab({ index: 25, registry, keepImages: [BUSYBOX], sandboxMode: 'pinned' });
});
after(async () => {
  await lab?.[Symbol.asyncDispose]();
  await registry?.stop();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

const holder = () => join(lab.daemon.state, HOLDER);

/** Starts a container in the pod; gives its id. */
async function addTo(podSandboxId: string, name: string, attempt = 0): Promise<string> {
  const { containerId } = await lab.daemon.cri.createContainer({
    podSandboxId,
    config: containerConfig(name, BUSYBOX, ['sleep', '3600'], { metadata: { name, attempt } }),
    sandboxConfig: podConfig(name, { cgroupParent: lab.daemon.cgroupParent }),
  });
  await lab.daemon.cri.startContainer({ containerId });
  return containerId;
}

/** Paths of the pod's namespaces by type, as `crictl inspectp` shows them. */
async function namespacesOf(podSandboxId: string): Promise<Record<string, string>> {
  const { info } = await lab.daemon.cri.podSandboxStatus({ podSandboxId, verbose: true });
  const { runtimeSpec } = JSON.parse(info.info ?? '{}') as {
    runtimeSpec: { linux: { namespaces: { type: string; path: string }[] } };
  };
  return Object.fromEntries(runtimeSpec.linux.namespaces.map(({ type, path }) => [type, path]));
}

/** The namespace of a kind that a container's process is in, as the inode of its file. */
async function inodeOf(containerId: string, kind: string): Promise<number> {
  const { info } = await lab.daemon.cri.containerStatus({ containerId, verbose: true });
  const { pid } = JSON.parse(info.info ?? '{}') as { pid: number };
  return statSync(`/proc/${pid}/ns/${kind}`).ino;
}

/** A container of the pod is in the namespaces that are held for it. */
async function assertJoined(pod: string, container: string): Promise<void> {
  const { ipc, uts } = await namespacesOf(pod);
  assert.ok(ipc && uts);
  assert.equal(await inodeOf(container, 'ipc'), statSync(ipc).ino);
  assert.equal(await inodeOf(container, 'uts'), statSync(uts).ino);
}

test('a pod with a container has three mounts on the host, and its IPC and UTS namespaces are found by their paths', {
  skip,
}, async () => {
  const before = mountsBelow(lab.folder).length;
  const pod = await lab.launch('three');
  const container = await addTo(pod, 'three');
  const mounts = mountsBelow(lab.folder).slice(before);
  assert.equal(mounts.length, 3, mounts.join(', '));
  await assertJoined(pod, container);
  assert.deepEqual(namesInHolder(holder()).sort(), [`${pod}.ipc`, `${pod}.uts`]);
  const { uts = '' } = await namespacesOf(pod);
  assert.equal((await run('nsenter', [`--uts=${uts}`, 'hostname'])).stdout.trim(), 'three');
  await lab.stopAndRemove(pod);
  assert.deepEqual(namesInHolder(holder()), []);
  await lab.assertSound();
});

for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
  test(`pods of a daemon that ended by ${signal} keep their namespaces, and get further containers from the next`, {
    skip,
  }, async () => {
    const pod = await lab.launch('again');
    const first = await addTo(pod, 'again');
    const empty = await lab.launch('empty');
    const { uts = '' } = await namespacesOf(empty);
    const inode = statSync(uts).ino;
    await lab.daemon.stop(signal);
    assert.equal(namesInHolder(holder()).length, 4);
    await lab.daemon.start();
    assert.equal(statSync(uts).ino, inode, 'the same path leads to the same namespace');
    assert.equal(readlinkSync(join(holder(), 'ns')).split('/')[2], `${lab.daemon.pid()}`);
    await assertJoined(pod, first);
    await assertJoined(pod, await addTo(pod, 'again', 1));
    await assertJoined(empty, await addTo(empty, 'empty'));
    for (const id of [pod, empty]) await lab.stopAndRemove(id);
    await lab.assertSound();
  });
}

test('a daemon that ends without pods leaves no holder, one that is killed leaves an empty one for the next', {
  skip,
}, async () => {
  await lab.daemon.stop('SIGKILL');
  assert.ok(existsSync(join(holder(), 'mnt')));
  await lab.daemon.start();
  await lab.daemon.stop();
  assert.equal(existsSync(holder()), false);
  assert.deepEqual(mountsBelow(lab.daemon.state), []);
  await lab.daemon.start();
  await lab.assertSound();
});

test('an unfinished holder, as a kill -9 leaves it between two calls, is replaced', { skip }, async () => {
  await lab.daemon.stop();
  for (const steps of [
    [['mkdir', holder()]],
    [
      ['mkdir', holder()],
      ['mount', '--bind', holder(), holder()],
    ],
    [
      ['mkdir', holder()],
      ['mount', '--bind', holder(), holder()],
      ['mount', '--make-private', holder()],
      ['touch', join(holder(), 'mnt')],
      ['ln', '-s', '/nowhere', join(holder(), 'ns.new')],
    ],
  ]) {
    for (const [program = '', ...args] of steps) await run(program, args);
    await lab.daemon.start();
    const pod = await lab.launch('unfinished');
    assert.deepEqual(namesInHolder(holder()).sort(), [`${pod}.ipc`, `${pod}.uts`]);
    assert.equal(mountsBelow(lab.daemon.state).filter((path) => path === holder()).length, 1);
    await lab.stopAndRemove(pod);
    await lab.daemon.stop();
    assert.equal(existsSync(holder()), false);
  }
  await lab.daemon.start();
  await lab.assertSound();
});

test('where a holder cannot be made, namespaces are pinned on the host; such pods go on under a daemon with one', {
  skip,
}, async () => {
  await lab.daemon.stop();
  writeFileSync(holder(), 'in the way');
  await lab.daemon.start();
  const pod = await lab.launch('plain');
  const first = await addTo(pod, 'plain');
  const { ipc = '' } = await namespacesOf(pod);
  assert.equal(ipc, join(lab.daemon.state, 'ns', `${pod}.ipc`));
  assert.equal(mountsBelow(join(lab.daemon.state, 'ns')).length, 2);
  await assertJoined(pod, first);
  assert.match(lab.daemon.log(), /are held in the mount table of the host/);
  await lab.daemon.stop();
  rmSync(holder());
  await lab.daemon.start();
  assert.ok(lstatSync(holder()).isDirectory());
  await assertJoined(pod, first);
  await assertJoined(pod, await addTo(pod, 'plain', 1));
  const other = await lab.launch('other');
  await assertJoined(other, await addTo(other, 'other'));
  for (const id of [pod, other]) await lab.stopAndRemove(id);
  assert.deepEqual(mountsBelow(join(lab.daemon.state, 'ns')), []);
  rmSync(join(lab.daemon.state, 'ns'), { recursive: true });
  await lab.assertSound();
});

/** Makes a holder and drops it, with the thread on each processor in turn when it begins. */
const ON_EACH_PROCESSOR = (folder: string) => `
  import { onProcessor, ownProcessors } from '${ROOT}/src/sys/processors.ts';
  import { dropHolder, openHolder } from '${ROOT}/src/sys/holder.ts';
  for (const processor of ownProcessors()) {
    onProcessor(processor, () => {});
    openHolder('${folder}');
    dropHolder('${folder}');
  }`;

/** Linux 6.18 numbers mount namespaces out of a range for each processor, and a holder must have the higher number. */
test('a daemon in a mount namespace of its own makes a holder, whichever processors both were made on', {
  skip: skip || skipUnlessRoot('unshare', 'taskset'),
}, async () => {
  const all = ownProcessors();
  for (const processor of all) {
    const inOwn = ['--mount', '--propagation', 'private', 'taskset', '-c', all.join(',')];
    const program = [process.execPath, '--input-type=module', '-e', ON_EACH_PROCESSOR(join(folder, 'own'))];
    await run('taskset', ['-c', String(processor), 'unshare', ...inOwn, ...program]);
  }
  assert.deepEqual(ownProcessors(), all);
});

test('a daemon that may not chroot(2), which the way back from a holder takes, starts all the same', {
  skip: skip || skipUnlessRoot('setpriv'),
}, async () => {
  const program = join(folder, 'sluiced');
  const sluiced = join(ROOT, 'bin/sluiced');
  writeScript(program, `#!/bin/sh\nexec setpriv --bounding-set -sys_chroot ${sluiced} "$@"\n`);
  await using daemon = await startSluice({ index: 26, program, sandboxMode: 'pinned' });
  const config = podConfig('caged', { cgroupParent: daemon.cgroupParent });
  const { podSandboxId } = await daemon.cri.runPodSandbox({ config });
  assert.equal(mountsBelow(join(daemon.state, 'ns')).length, 2);
  assert.match(daemon.log(), /are held in the mount table of the host/);
  await daemon.cri.removePodSandbox({ podSandboxId });
  await daemon.assertNothingLeft();
});
