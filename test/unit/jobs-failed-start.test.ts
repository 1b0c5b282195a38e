import assert from 'node:assert/strict';
import { test } from 'node:test';
import { explain, SluiceError } from '../../src/errors.ts';
import { CONTAINER_STATES } from '../../src/node/store/container.ts';
import { startFailed, undoStart, undoStartLater } from '../../src/pipeline/jobs/failed-start.ts';
import { eventually, type JobLab, openJobLab } from './job-fixture.ts';

/** A container whose start has got as far as its task and was given up there. */
async function halfStarted(lab: JobLab) {
  const sandbox = await lab.launch();
  const row = await lab.add(sandbox, {}, { start: false });
  const shim = lab.shims.get(sandbox.id) ?? assert.fail('no shim');
  lab.ctx.containerStates.starting(row, 'runc hung');
  await shim.shim.task.create({
    id: row.id,
    bundle: '',
    rootfs: [],
    runtime: { binary: '', root: '', systemdCgroup: false },
  });
  const jobs = lab.jobs.jobs.length;
  return { sandbox, row, shim, newJobs: () => lab.jobs.jobs.slice(jobs) };
}

test('a failed start leaves an exited container that says why', async () => {
  using lab = openJobLab();
  const { row } = await halfStarted(lab);
  startFailed(row, lab.services, 'no such file');
  assert.deepEqual([row.state, row.reason, row.exitCode, row.message], ['exited', 'StartError', 128, 'no such file']);
});

test('an undone start has no task any more, and has exited with what its row said', async () => {
  using lab = openJobLab();
  const { row, shim, newJobs } = await halfStarted(lab);
  await undoStart(row, lab.services);
  assert.equal(shim.tasks.has(row.id), false);
  assert.ok(lab.calls.includes('stdio.removeIo'));
  assert.deepEqual([row.state, row.reason, row.message], ['exited', 'StartError', 'runc hung']);
  assert.deepEqual(
    newJobs().map(({ start, calls }) => [start.job, start.origin, calls.at(-1)]),
    [['StartContainer', 'recovery', 'ended']],
  );
});

test('a start that the shim does not list is removed from the runtime as well', async () => {
  using lab = openJobLab();
  const { row, shim } = await halfStarted(lab);
  shim.tasks.delete(row.id);
  await undoStart(row, lab.services);
  assert.ok(lab.calls.includes('shim.cleanupShim'));
  assert.equal(row.state, 'exited');
});

test('an undo that fails leaves the container starting, with one job that has ended', async () => {
  using lab = openJobLab();
  const { row, newJobs } = await halfStarted(lab);
  lab.hooks.set('task.delete', new SluiceError('RUNTIME_FAILED', 'device busy'));
  await assert.rejects(undoStart(row, lab.services), (error) => /device busy/.test(explain(error)));
  assert.equal(row.state, 'starting');
  assert.deepEqual(
    newJobs().map(({ calls }) => calls.at(-1)),
    ['ended!'],
  );
  lab.jobs.assertClosed();
});

for (const state of CONTAINER_STATES.filter((one) => one !== 'starting')) {
  test(`there is no start to undo of a container that is ${state}`, async () => {
    using lab = openJobLab();
    const { row, newJobs } = await halfStarted(lab);
    row.state = state;
    await undoStart(row, lab.services);
    assert.equal(row.state, state);
    assert.deepEqual(newJobs(), []);
  });
}

test('in the background the undo waits for a job that holds the pod', async () => {
  using lab = openJobLab();
  const { sandbox, row } = await halfStarted(lab);
  const held = await lab.locks.take('pod', sandbox.id, 'exclusive');
  undoStartLater(row, lab.services, 'the daemon ended', 0);
  await new Promise((resolve) => setTimeout(resolve, 5));
  assert.equal(row.state, 'starting');
  held[Symbol.dispose]();
  await eventually(() => row.state === 'exited');
  assert.equal(row.message, 'the daemon ended');
  await eventually(() => lab.services.retries.pending === 0);
});

test('in the background the undo has nothing to do where a stop or removal came first', async () => {
  using lab = openJobLab();
  const { row, newJobs } = await halfStarted(lab);
  undoStartLater(row, lab.services, 'the daemon ended', 5);
  await lab.containers.remove(row.id, {});
  await eventually(() => lab.services.retries.pending === 0);
  assert.equal(lab.ctx.store.containers.size, 0);
  const undos = newJobs().filter(({ start }) => start.job === 'StartContainer');
  assert.equal(undos.length, 1, 'the removal’s own');
  lab.jobs.assertClosed();
});
