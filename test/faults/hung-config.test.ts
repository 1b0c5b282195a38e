/**
 * Folders and files that the configuration names, on a FUSE mount that hangs: registries, credentials, policies,
 * archives to import, CNI plugins, a drop-in of the configuration itself. Whatever needs them fails after its time
 * limit; nothing else notices, and everything works again when the mount does.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { GRPC } from '../../src/errors.ts';
import { connectSocket } from '../../src/main/cri/images-client.ts';
import { type HangingFolder, hangingFolder, SKIP_FUSE } from '../rig/hangfs.ts';
import { imageRegistry } from '../rig/images.ts';
import { containerConfig, imageSpec, podConfig } from '../rig/messages.ts';
import { privateFolder, ROOT } from '../rig/paths.ts';
import { writePauseArchive } from '../rig/pause-archive.ts';
import { run, waitFor } from '../rig/proc.ts';
import type { Registry } from '../rig/registry.ts';
import { type Lab, openLab, SKIP_WITH_REGISTRY, writeScript } from './lab.ts';

const skip = SKIP_WITH_REGISTRY || SKIP_FUSE;
const BUSYBOX = 'docker.io/library/busybox:latest';
const OTHER = 'registry.k8s.io/k8s-staging-cri-tools/test-image-1:latest';
const IMPORTED = 'example.com/imported:1';
/** The sum of the longest time limits of a look at the mount: 10 s for it, 5 s for its process to end. */
const LIMIT_MS = 25_000;

let lab: Lab;
let folder: string;
let registry: Registry;
let hanging: HangingFolder;

before(async () => {
  if (skip) return;
  folder = privateFolder('sluice-hung');
  registry = await imageRegistry(folder);
  hanging = await hangingFolder(folder);
  const { path, behind } = hanging;
  for (const name of ['certs.d/_default', 'archives', 'bin', 'conf.d'])
    mkdirSync(join(behind, name), { recursive: true });
  writeFileSync(
    join(behind, 'certs.d/_default/hosts.toml'),
    readFileSync(join(registry.certsDir, '_default/hosts.toml'), 'utf8'),
  );
  writeFileSync(join(behind, 'policy.toml'), '[registry."*"]\nrequire = "none"\n');
  writePauseArchive(join(behind, 'archives/one.tar'), IMPORTED);
  writeFileSync(join(behind, 'conf.d/10.toml'), '[log]\nlevel = "debug"\n');
  lab = await openLab({
    index: 21,
    keepImages: [BUSYBOX],
    prepare: async (own, network) => {
      // What stands on the mount starts the real program, as wrappers of plugins do.
      for (const [name, dirs] of [
        ['fault', [join(own, 'plugins')]],
        ...['bridge', 'host-local', 'portmap'].map((each) => [each, network.binDirs] as const),
      ] as const) {
        const real = dirs.map((dir) => join(dir, name)).find((file) => existsSync(file));
        if (real !== undefined) writeScript(join(behind, 'bin', name), `#!/bin/sh\nexec ${real}\n`);
      }
      symlinkSync(join(path, 'conf.d'), join(own, 'conf.d'));
      return {
        cni: { bin_dirs: [join(path, 'bin')], timeout_seconds: 2 },
        images: {
          registry_config: join(path, 'certs.d'),
          signature_policy: join(path, 'policy.toml'),
          import_folder: join(path, 'archives'),
        },
      };
    },
  });
});
after(async () => {
  hanging?.resume();
  await lab?.[Symbol.asyncDispose]();
  await hanging?.[Symbol.asyncDispose]();
  await registry?.stop();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

const lines = () => readFileSync(join(lab.folder, 'log'), 'utf8');
const imported = async () =>
  (await lab.daemon.cri.imageStatus({ image: imageSpec(IMPORTED), verbose: false })).image !== undefined;

/** A pod of the host's network with a container, and all lists; returns its milliseconds. */
async function usualWork(name: string): Promise<number> {
  const { cri, cgroupParent } = lab.daemon;
  const began = performance.now();
  const config = podConfig(name, { cgroupParent, host: { network: true } });
  const { podSandboxId } = await cri.runPodSandbox({ config });
  const { containerId } = await cri.createContainer({
    podSandboxId,
    config: containerConfig(name, BUSYBOX, ['sleep', '600']),
    sandboxConfig: config,
  });
  await cri.startContainer({ containerId });
  await Promise.all([cri.listPodSandbox(), cri.listContainers(), cri.listImages(), cri.imageFsInfo(), cri.status()]);
  await lab.stopAndRemove(podSandboxId);
  return performance.now() - began;
}

/** Fails in time, with the words of a mount that hangs. */
async function failsInTime(what: string, work: Promise<unknown>): Promise<void> {
  const began = performance.now();
  await assert.rejects(work, (error: Error & { code?: number; details?: string }) => {
    const words = error.details ?? error.message;
    if (typeof error.code === 'number') assert.equal(error.code, GRPC.DEADLINE_EXCEEDED, `${what}: ${words}`);
    assert.match(words, /fuse.*mount.*(did not answer within 10 s|hangs: process \d+)/s, what);
    return true;
  });
  assert.ok(performance.now() - began < LIMIT_MS, `${what} failed after ${performance.now() - began} ms`);
}

test('all of them work on a mount that answers', { skip, timeout: 120_000 }, async () => {
  await waitFor('the archive of images.import_folder', 10_000, async () => (await imported()) || undefined);
  const archive = join(hanging.path, 'archives/one.tar');
  await run(join(ROOT, 'bin/sluice'), ['image', 'import', '--config', lab.daemon.configFile, archive]);
  await lab.assertSound();
});

test('a mount that hangs holds up what needs it, and nothing else', { skip, timeout: 180_000 }, async () => {
  const { cri, cgroupParent } = lab.daemon;
  // A busy machine makes the usual work slower, never by the 10 s of a time limit.
  const usualMs = 2 * (await usualWork('before')) + 5000;
  const held = await lab.launch('held');
  hanging.hang();
  const failing = [
    failsInTime('a pull', cri.pullImage({ image: imageSpec(OTHER) }, { timeoutMs: 60_000 })),
    failsInTime(
      'a launch',
      cri.runPodSandbox({ config: podConfig('plugins', { cgroupParent }) }, { timeoutMs: 60_000 }),
    ),
  ];
  process.kill(lab.daemon.pid(), 'SIGHUP');
  await sleep(500);
  for (let round = 0; round < 4; round++) {
    const ms = await usualWork(`usual-${round}`);
    assert.ok(ms < usualMs, `the usual work took ${Math.round(ms)} ms, and may take ${Math.round(usualMs)}`);
  }
  await waitFor('the reload to be given up', LIMIT_MS, () => lines().includes('was not reloaded') || undefined);
  await Promise.all(failing);

  hanging.resume();
  // What was killed while it hung ends a moment later; until then the mount counts as one that hangs.
  await waitFor('a pull', 10_000, () => cri.pullImage({ image: imageSpec(OTHER) }, { timeoutMs: 60_000 }));
  await cri.removeImage({ image: imageSpec(OTHER) });
  process.kill(lab.daemon.pid(), 'SIGHUP');
  await waitFor('a reload', 10_000, () => lines().includes('configuration reloaded') || undefined);
  await lab.stopAndRemove(held);
  await lab.assertSound(60_000);
});

test('an archive on a mount that hangs is given up, and the image workers go on', {
  skip,
  timeout: 120_000,
}, async () => {
  const usualMs = 2 * (await usualWork('before-import')) + 5000;
  using client = connectSocket(lab.daemon.socket);
  const path = join(hanging.path, 'archives/one.tar');
  const all = async () => {
    for await (const _ of client.images.import({ path, name: undefined }));
  };
  hanging.hang();
  const importing = [failsInTime('an import', all()), failsInTime('another import', all())];
  await sleep(500);
  for (let round = 0; round < 3; round++) {
    const ms = await usualWork(`import-${round}`);
    assert.ok(ms < usualMs, `the usual work took ${Math.round(ms)} ms, and may take ${Math.round(usualMs)}`);
  }
  await Promise.all(importing);
  hanging.resume();
  await waitFor('an import', 10_000, () => all().then(() => true));
  await lab.assertSound(60_000);
});
