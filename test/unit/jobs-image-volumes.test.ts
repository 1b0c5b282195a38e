import assert from 'node:assert/strict';
import { mkdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { codeOf, explain, SluiceError } from '../../src/errors.ts';
import { imageVolumesFolder, unmountImageVolumes } from '../../src/pipeline/jobs/image-volumes.ts';
import { runtimeOptions } from '../../src/pipeline/jobs/runtime-options.ts';
import { usedImages } from '../../src/pipeline/jobs/used-images.ts';
import { imageSubFolder } from '../../src/workers/shim/image-volume.ts';
import { imageSpec, mount } from '../rig/messages.ts';
import { type JobLab, openJobLab } from './job-fixture.ts';

const volume = (containerPath: string, imageSubPath = '') =>
  mount({ containerPath, readonly: true, image: imageSpec('app:1'), imageSubPath });
const named = (name: string) => ({ metadata: { name, attempt: 0 } });

/** The worker’s mount, as far as anyone sees it: a folder with the image’s files. */
function mountsFolders(lab: JobLab) {
  lab.hooks.set('shim.mountImageVolume', (input) => {
    mkdirSync(join((input as { target: string }).target, 'data/deep'), { recursive: true });
  });
  lab.hooks.set('shim.imageSubFolder', (input) => imageSubFolder(input as Parameters<typeof imageSubFolder>[0]));
}

test('two containers that want the same image at the same time share one mount, and show it with its image', async () => {
  using lab = openJobLab();
  const sandbox = await lab.launch();
  let mounting = 0;
  let most = 0;
  lab.hooks.set('shim.mountImageVolume', async () => {
    most = Math.max(most, ++mounting);
    await sleep(20);
    mounting--;
  });
  const both = ['a', 'b'].map((name) =>
    lab.add(sandbox, { ...named(name), mounts: [volume('/models')] }, { start: false }),
  );
  const rows = await Promise.all(both);
  assert.equal(most, 1);
  for (const row of rows) assert.deepEqual(row.imageMounts, [{ containerPath: '/models', imageRef: 'sha256:app:1' }]);
});

test('a folder of an image is found inside it, and a link does not lead out', async () => {
  using lab = openJobLab();
  const sandbox = await lab.launch();
  mountsFolders(lab);
  await lab.add(sandbox, { ...named('good'), mounts: [volume('/models', 'data/deep')] }, { start: false });
  const root = join(imageVolumesFolder(sandbox), 'app:1');
  symlinkSync('/', join(root, 'out'));
  for (const path of ['out/etc', 'nonesuch']) {
    await assert.rejects(
      lab.add(sandbox, { ...named(`bad-${path.length}`), mounts: [volume('/models', path)] }),
      (error) => codeOf(error) === 'INVALID_REQUEST' && /\/models/.test(explain(error)),
      path,
    );
  }
});

test('an image volume whose image is not here, or that cannot be mounted, has kubelet’s reason', async () => {
  using lab = openJobLab();
  const sandbox = await lab.launch();
  const reasonOf = (error: unknown): unknown =>
    error instanceof SluiceError ? (error.kubeletReason ?? reasonOf(error.cause)) : undefined;
  const fails = (name: string, image: string, words: RegExp) =>
    assert.rejects(
      lab.add(sandbox, { ...named(name), mounts: [{ ...volume('/models'), image: imageSpec(image) }] }),
      (error) => reasonOf(error) === 'ImageVolumeMountFailed' && words.test(explain(error)),
    );
  await fails('a', 'absent:1', /absent:1/);
  lab.hooks.set('shim.mountImageVolume', new SluiceError('NAMESPACE_FAILED', 'no such device'));
  await fails('b', 'app:1', /no such device/);
  assert.equal(lab.ctx.store.containers.size, 0);
});

test('a pod’s image volumes are unmounted with it, each once; none is fine', async () => {
  using lab = openJobLab();
  const sandbox = await lab.launch();
  const removed: unknown[] = [];
  lab.hooks.set('shim.removeFolder', (input) => removed.push(input));
  await unmountImageVolumes(sandbox, lab.ctx);
  assert.deepEqual(removed, []);
  mountsFolders(lab);
  await lab.add(sandbox, { mounts: [volume('/models')] }, { start: false });
  await unmountImageVolumes(sandbox, lab.ctx);
  assert.deepEqual(removed, [{ path: imageVolumesFolder(sandbox), mountPoints: ['app:1'] }]);
});

test('an image is in use by pods, containers and mounted volumes', async () => {
  using lab = openJobLab();
  const sandbox = await lab.launch();
  await lab.add(sandbox, {}, { start: false });
  mkdirSync(join(imageVolumesFolder(sandbox), 'models'), { recursive: true });
  assert.deepEqual([...(await usedImages(lab.ctx.store))].sort(), ['sha256:app:1', 'sha256:models', 'sha256:pause:1']);
});

test('the runtime’s root is the configured one, or the daemon’s own', () => {
  using lab = openJobLab();
  const runtime = lab.ctx.config.runtimes.runc ?? assert.fail('no runtime');
  assert.equal(runtimeOptions(lab.ctx, { ...runtime, runtime_root: '/own' }).root, '/own');
  assert.equal(runtimeOptions(lab.ctx, runtime).systemdCgroup, true);
  const host = { ...lab.ctx.host, cgroupDriver: 'cgroupfs' as const };
  assert.equal(runtimeOptions({ ...lab.ctx, host }, runtime).systemdCgroup, false);
});
