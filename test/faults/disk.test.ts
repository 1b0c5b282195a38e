import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { GRPC } from '../../src/errors.ts';
import { type Disk, fill, freeBytes, smallTmpfs } from '../rig/disk.ts';
import { imageRegistry } from '../rig/images.ts';
import { imageSpec } from '../rig/messages.ts';
import { privateFolder } from '../rig/paths.ts';
import { waitFor } from '../rig/proc.ts';
import type { Registry } from '../rig/registry.ts';
import { type Lab, openLab, SKIP_WITH_REGISTRY } from './lab.ts';

const skip = SKIP_WITH_REGISTRY;
const MIB = 2 ** 20;
let lab: Lab;
let disk: Disk;
let folder: string;
let registry: Registry;

before(async () => {
  if (skip) return;
  folder = privateFolder('sluice-disk');
  disk = await smallTmpfs(24);
  registry = await imageRegistry(folder);
  lab = await openLab({ index: 15, root: disk.path, registry });
});
after(async () => {
  if (skip) return;
  await lab?.[Symbol.asyncDispose]();
  await registry?.stop();
  await disk?.[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});

const free = () => freeBytes(disk.path);

test('an image that does not fit: DISK_FULL, and the space is given back', { skip, timeout: 120_000 }, async () => {
  const before = free();
  const image = imageSpec('example.com/bench/large:latest');
  await assert.rejects(lab.daemon.cri.pullImage({ image }), { code: GRPC.RESOURCE_EXHAUSTED });
  await waitFor('the space to come back', 5000, () => before - free() < MIB || undefined).catch(() => {
    assert.fail(`${before - free()} bytes are gone`);
  });
  await lab.assertSound();
});

test('a launch on a full disk: DISK_FULL, and the next one works once there is room', { skip }, async () => {
  const filler = join(disk.path, 'filler');
  fill(filler);
  try {
    await lab.launchFails('doomed', { code: GRPC.RESOURCE_EXHAUSTED, words: /space|full/i });
    assert.deepEqual((await lab.daemon.cri.listPodSandbox()).items, []);
  } finally {
    rmSync(filler);
  }
  await lab.assertSound(30_000);
});

test('a pod that is up can be stopped and removed on a full disk', { skip }, async () => {
  const id = await lab.launch('up');
  const filler = join(disk.path, 'filler');
  fill(filler);
  try {
    await lab.stopAndRemove(id);
  } finally {
    rmSync(filler);
  }
  await lab.assertSound(30_000);
});
