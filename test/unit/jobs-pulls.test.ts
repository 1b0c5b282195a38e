import assert from 'node:assert/strict';
import { test } from 'node:test';
import { codeOf, SluiceError } from '../../src/errors.ts';
import { eventually, openJobLab } from './job-fixture.ts';

const pull = { image: 'app:2' };

/** What the registry answers; a fake commit takes it as it is. */
const RESOLVED = {};

test('a pull goes through its stages, lets go of its layers and sweeps', async () => {
  using lab = openJobLab();
  lab.hooks.set('images.resolve', () => RESOLVED);
  const image = await lab.pulls.pull(pull, {});
  assert.equal(image.id, 'sha256:pulled:1');
  assert.deepEqual(lab.calls, [
    'images.resolve',
    'images.fetchLayers',
    'images.commit',
    'images.release',
    'images.sweep',
  ]);
  assert.equal(lab.pulls.running, 0);
  assert.equal(lab.jobs.jobs[0]?.start.image, 'app:2');
  lab.jobs.assertClosed();
});

test('pulls of the same image are one, and count while they run', async () => {
  using lab = openJobLab();
  const gate = Promise.withResolvers<object>();
  lab.hooks.set('images.resolve', () => gate.promise);
  const pulls = [lab.pulls.pull(pull, {}), lab.pulls.pull(pull, {})];
  await eventually(() => lab.calls.includes('images.resolve'));
  assert.equal(lab.pulls.running, 1);
  gate.resolve(RESOLVED);
  const [first, second] = await Promise.all(pulls);
  assert.equal(first, second);
  assert.equal(lab.jobs.jobs.length, 1);
  assert.ok(lab.counted.includes('imageJoined'));
  await lab.pulls.pull(pull, {});
  assert.equal(lab.jobs.jobs.length, 2, 'a later pull asks the registry again');
});

test('a pull whose last caller leaves is cancelled, and not as long as another one waits', async () => {
  using lab = openJobLab();
  lab.hooks.set('images.resolve', () => RESOLVED);
  lab.hooks.set('images.fetchLayers', () => new Promise(() => {}));
  const [first, second] = [new AbortController(), new AbortController()];
  const calls = [first, second].map(({ signal }) => lab.pulls.pull(pull, { left: signal }));
  const ends = Promise.allSettled(calls);
  await eventually(() => lab.calls.includes('images.fetchLayers'));
  first.abort('cancelled');
  await assert.rejects(calls[0] as Promise<unknown>, (error) => codeOf(error) === 'CALLER_GONE');
  assert.equal(lab.pulls.running, 1);
  second.abort('cancelled');
  await ends;
  await eventually(() => lab.pulls.running === 0);
  assert.ok(lab.calls.includes('images.release') && !lab.calls.includes('images.commit'));
  assert.ok(lab.counted.includes('imageCancelled'));
  lab.jobs.assertClosed();
});

test('a caller who joins a pull that is being cancelled gets a pull of its own', async () => {
  using lab = openJobLab();
  lab.hooks.set('images.resolve', () => RESOLVED);
  lab.hooks.set('images.fetchLayers', () => new Promise(() => {}));
  const left = new AbortController();
  const gone = Promise.allSettled([lab.pulls.pull(pull, { left: left.signal })]);
  await eventually(() => lab.calls.includes('images.fetchLayers'));
  lab.hooks.set('images.fetchLayers', () => []);
  left.abort('cancelled');
  assert.equal((await gone)[0]?.status, 'rejected');
  assert.equal(lab.pulls.running, 1, 'the first pull is still ending');
  const image = await lab.pulls.pull(pull, {});
  assert.equal(image.id, 'sha256:pulled:1');
  assert.equal(lab.jobs.jobs.length, 2);
  lab.jobs.assertClosed();
});

for (const [call, stage] of [
  ['images.resolve', 'resolve'],
  ['images.fetchLayers', 'layers'],
] as const) {
  test(`a pull whose ${call} fails names stage ${stage}, keeps the code, and holds no layers`, async () => {
    using lab = openJobLab();
    lab.hooks.set('images.resolve', () => RESOLVED);
    lab.hooks.set(call, new SluiceError('REGISTRY_UNAVAILABLE', 'no route to host'));
    await assert.rejects(
      lab.pulls.pull(pull, {}),
      (error) => error instanceof SluiceError && codeOf(error) === 'REGISTRY_UNAVAILABLE' && error.stage === stage,
    );
    assert.ok(!lab.calls.includes('images.commit'));
    assert.ok(lab.calls.includes('images.release'));
    assert.equal(lab.pulls.running, 0);
    lab.jobs.assertClosed();
  });
}

test('a sweep that fails after a pull is logged; the pull is fine', async () => {
  using lab = openJobLab();
  lab.hooks.set('images.resolve', () => RESOLVED);
  lab.hooks.set('images.sweep', new Error('device busy'));
  assert.equal((await lab.pulls.pull(pull, {})).id, 'sha256:pulled:1');
  await eventually(() => lab.lines.some(({ level }) => level === 'warn'));
});

test('a pod launch whose image is not here pulls it with the pull that is in flight', async () => {
  using lab = openJobLab();
  lab.images.delete(lab.ctx.images.sandboxImage);
  const gate = Promise.withResolvers<object>();
  lab.hooks.set('images.resolve', () => gate.promise);
  const pulling = lab.pulls.pull({ image: lab.ctx.images.sandboxImage }, {});
  const launch = lab.pods.run(lab.podRequest(), {});
  await eventually(() => lab.counted.includes('imageJoined'));
  gate.resolve(RESOLVED);
  await pulling;
  const id = await launch;
  assert.equal(lab.ctx.store.sandboxes.get(id)?.image, 'sha256:pulled:1');
});
