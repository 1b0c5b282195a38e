/**
 * What hangs costs its own pod and nothing else: host paths on a FUSE mount that hangs, plugins in uninterruptible
 * sleep, shims that are stopped. Beside each, the rest of the node is timed.
 */
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Mount } from '../../proto/gen/cri.ts';
import { GRPC } from '../../src/errors.ts';
import { type HangingFolder, hangingFolder, SKIP_FUSE } from '../rig/hangfs.ts';
import { imageRegistry } from '../rig/images.ts';
import { containerConfig, podConfig } from '../rig/messages.ts';
import { privateFolder } from '../rig/paths.ts';
import { processesOf, stopThreads, waitFor } from '../rig/proc.ts';
import type { Registry } from '../rig/registry.ts';
import { type Lab, openLab, SKIP_WITH_REGISTRY } from './lab.ts';

const skip = SKIP_WITH_REGISTRY || SKIP_FUSE;
const BUSYBOX = 'docker.io/library/busybox:latest';
/**
 * Milliseconds that the usual work below may take while something hangs; set from what it takes on this machine before.
 */
let usualMs = Number.POSITIVE_INFINITY;

let lab: Lab;
let folder: string;
let registry: Registry;
let hanging: HangingFolder;
before(async () => {
  if (skip) return;
  folder = privateFolder('sluice-hung');
  registry = await imageRegistry(folder);
  hanging = await hangingFolder(folder);
  lab = await openLab({
    index: 20,
    registry,
    keepImages: [BUSYBOX],
    config: { refuse_missing_host_paths: [join(hanging.path, 'refused')] },
  });
});
after(async () => {
  await hanging?.[Symbol.asyncDispose]();
  await lab?.[Symbol.asyncDispose]();
  await registry?.stop();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

const pod = (name: string, more: { logDirectory?: string } = {}) =>
  podConfig(name, { cgroupParent: lab.daemon.cgroupParent, ...more });

interface Wanted {
  hostPath?: string;
  command?: string[];
  logDirectory?: string;
  timeoutMs?: number;
}

async function create(podSandboxId: string, of: string, name: string, wanted: Wanted = {}): Promise<string> {
  const { hostPath, command = ['sleep', '600'], logDirectory, timeoutMs } = wanted;
  const mounts = hostPath ? [{ ...Mount.decode(new Uint8Array()), containerPath: '/data', hostPath }] : [];
  const config = containerConfig(name, BUSYBOX, command, { mounts, ...(logDirectory && { logPath: `${name}.log` }) });
  const request = { podSandboxId, config, sandboxConfig: pod(of, { logDirectory }) };
  return (await lab.daemon.cri.createContainer(request, { timeoutMs })).containerId;
}

let rounds = 0;
/**
 * A launch with a container that has a host path and a log, all lists, stats, and the end of it; returns its
 * milliseconds.
 */
async function usualWork(): Promise<number> {
  const { cri } = lab.daemon;
  const name = `usual-${++rounds}`;
  const logDirectory = join(folder, 'logs', name);
  const began = performance.now();
  const { podSandboxId } = await cri.runPodSandbox({ config: pod(name, { logDirectory }) });
  const containerId = await create(podSandboxId, name, 'c', { hostPath: join(folder, 'data'), logDirectory });
  await cri.startContainer({ containerId });
  await Promise.all([
    cri.listPodSandbox(),
    cri.listContainers(),
    cri.listContainerStats(),
    cri.listImages(),
    cri.imageFsInfo(),
    cri.podSandboxStatus({ podSandboxId, verbose: true }),
    cri.containerStatus({ containerId, verbose: true }),
  ]);
  const { exitCode } = await cri.execSync({ containerId, cmd: ['true'], timeout: 10n });
  assert.equal(exitCode, 0);
  await lab.stopAndRemove(podSandboxId);
  return performance.now() - began;
}

async function assertUsual(rounds = 3): Promise<void> {
  for (let i = 0; i < rounds; i++) {
    const ms = await usualWork();
    assert.ok(ms < usualMs, `the usual work took ${Math.round(ms)} ms, and may take ${Math.round(usualMs)}`);
  }
}

test('the usual work, for comparison', { skip }, async (t) => {
  const all = [await usualWork(), await usualWork(), await usualWork()];
  t.diagnostic(`the usual work takes ${all.map(Math.round).join(', ')} ms`);
  // Whatever hangs does so for 10 s and more, so a busy machine cannot be taken for it.
  usualMs = 2 * Math.max(...all) + 2000;
});

test('twelve containers with host paths on a mount that hangs', { skip }, async () => {
  const id = await lab.launch('hung-paths');
  const path = (name: string) => join(hanging.path, name);
  mkdirSync(join(hanging.behind, 'present'));
  hanging.hang();
  const began = performance.now();
  const ends = Array.from({ length: 12 }, (_, i) =>
    create(id, 'hung-paths', `c${i}`, { hostPath: path('present') }).then(
      () => undefined,
      (error: Error & { code: number; details: string }) => ({ error, ms: performance.now() - began }),
    ),
  );
  await sleep(500);
  await assertUsual();
  for (const end of await Promise.all(ends)) {
    assert.ok(end, 'it was created on a mount that hangs');
    assert.equal(end.error.code, GRPC.DEADLINE_EXCEEDED, end.error.details);
    assert.match(
      end.error.details,
      /stage paths: .*host path .*hangs\/present.*fuse.*mount.*did not answer within 10 s/s,
    );
    assert.ok(end.ms < 25_000, `failed after ${end.ms} ms`);
  }
  // As long as a process hangs there, nothing else is sent after it.
  const again = performance.now();
  await assert.rejects(create(id, 'hung-paths', 'again', { hostPath: path('present') }), /hangs: process \d+/);
  assert.ok(performance.now() - again < 3000);

  hanging.resume();
  const made = await waitFor('a container on the mount that works again', 10_000, () =>
    create(id, 'hung-paths', 'late', { hostPath: path('missing/deep'), command: ['touch', '/data/file'] }),
  );
  await lab.daemon.cri.startContainer({ containerId: made });
  await waitFor('its file', 5000, () => statSync(join(hanging.behind, 'missing/deep/file')));
  assert.equal(statSync(join(hanging.behind, 'missing')).mode & 0o777, 0o755);
  await assert.rejects(create(id, 'hung-paths', 'refused', { hostPath: path('refused/x') }), {
    code: GRPC.INVALID_ARGUMENT,
  });
  await lab.stopAndRemove(id);
  await lab.assertSound();
});

test('a container whose log folder hangs', { skip, timeout: 120_000 }, async () => {
  const { cri } = lab.daemon;
  const logDirectory = join(hanging.path, 'logs');
  const { podSandboxId } = await cri.runPodSandbox({ config: pod('hung-log', { logDirectory }) });
  const command = ['sh', '-c', 'i=0; while [ $i -lt 40 ]; do echo $i; i=$((i+1)); sleep 0.1; done; exit 7'];
  const [running = '', late = ''] = await Promise.all(
    ['running', 'late'].map((name) => create(podSandboxId, 'hung-log', name, { command, logDirectory })),
  );
  await cri.startContainer({ containerId: running });
  const log = join(hanging.behind, 'logs/running.log');
  await waitFor('its first line', 5000, () => readFileSync(log, 'utf8').includes(' 0\n') || undefined);
  hanging.hang();
  const starting = assert.rejects(cri.startContainer({ containerId: late }), /stage io: .*did not answer within 10 s/s);
  await assertUsual();
  const ended = await waitFor('its end, with its exit code', 20_000, async () => {
    const { status } = await cri.containerStatus({ containerId: running });
    return status?.state === 2 ? status : undefined;
  });
  assert.equal(ended.exitCode, 7);
  await starting;
  hanging.resume();
  await waitFor('the whole log', 10_000, () => readFileSync(log, 'utf8').trim().endsWith(' 39') || undefined);
  assert.equal(readFileSync(log, 'utf8').trim().split('\n').length, 40);
  await lab.stopAndRemove(podSandboxId);
  await lab.assertSound();
});

test('a CNI plugin in uninterruptible sleep outlives its SIGKILL', { skip, timeout: 120_000 }, async () => {
  writeFileSync(join(hanging.behind, 'words'), 'words');
  hanging.hang();
  lab.plugin.mode(`reads ${join(hanging.path, 'words')}`);
  const failing = lab.launchFails('asleep', {
    words: /network.*fault.*did not end within 2 s.*uninterruptible sleep/s,
  });
  await sleep(1000);
  lab.plugin.mode('works');
  await assertUsual();
  await failing;
  await assertUsual(1);
  hanging.resume();
  await lab.assertSound(60_000);
});

test('ten of many pods have shims that are stopped (SIGSTOP)', { skip, timeout: 240_000 }, async () => {
  const { cri } = lab.daemon;
  const names = Array.from({ length: 10 }, (_, i) => `stopped-${i}`);
  const ids = await Promise.all(names.map((name) => lab.launch(name)));
  const containers = await Promise.all(ids.map((id, i) => create(id, names[i] ?? '', 'c')));
  const shims = processesOf(lab.folder).filter(
    (p) => p.command.includes('shim') && ids.some((id) => p.command.includes(id)),
  );
  assert.equal(shims.length, 10);
  await Promise.all(shims.map(({ pid }) => stopThreads(pid)));
  try {
    const began = performance.now();
    const starts = containers.map((containerId) => cri.startContainer({ containerId }).then(String, (error) => error));
    const stops = ids.map((podSandboxId) => cri.stopPodSandbox({ podSandboxId }).then(String, (error) => error));
    await sleep(300);
    await assertUsual();
    for (const error of await Promise.all([...starts, ...stops])) {
      assert.ok(error instanceof Error, `answered ${error}`);
      assert.match(error.message, /no response within/);
    }
    assert.ok(performance.now() - began < 40_000);
    await assertUsual(1);
    assert.equal((await cri.listPodSandbox()).items.length, 10);
  } finally {
    for (const { pid } of shims) process.kill(pid, 'SIGCONT');
  }
  for (const id of ids) await lab.stopAndRemove(id);
  await lab.assertSound();
});
