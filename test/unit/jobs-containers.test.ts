import assert from 'node:assert/strict';
import { test } from 'node:test';
import { codeOf, explain, SluiceError } from '../../src/errors.ts';
import { JobError } from '../../src/pipeline/engine/engine.ts';
import { containerLinux, imageSpec, mount, resources } from '../rig/messages.ts';
import { eventually, type JobLab, openJobLab } from './job-fixture.ts';

const failure = new SluiceError('RUNTIME_FAILED', 'runc refused');
const shimOf = (lab: JobLab, sandbox: { id: string }) => lab.shims.get(sandbox.id) ?? assert.fail('no shim');
const tasks = (lab: JobLab) => lab.calls.filter((call) => call.startsWith('task.'));
const types = async (lab: JobLab) => (await lab.published()).map(([type]) => type);

test('a container is created, started, stopped and removed, and each step is published', async () => {
  using lab = openJobLab();
  const sandbox = await lab.launch();
  const row = await lab.add(sandbox, {}, { start: false });
  assert.equal(row.state, 'created');
  assert.equal(row.image, 'sha256:app:1');
  assert.equal(row.stopSignal, 'SIGTERM');
  assert.deepEqual(row.user, { uid: 0, gid: 0, groups: [0] });
  await lab.containers.start(row.id, {});
  assert.equal(row.state, 'running');
  assert.ok(row.pid > 0);
  await lab.containers.stop(row.id, 10, {});
  assert.equal(row.state, 'exited');
  assert.equal(row.exitCode, 143);
  await lab.containers.remove(row.id, {});
  assert.equal(lab.ctx.store.containers.size, 0);
  assert.equal(lab.ctx.containerNames.owner(row.name), undefined);
  assert.deepEqual((await types(lab)).slice(2), ['created', 'started', 'stopped', 'deleted']);
  lab.jobs.assertClosed();
});

test('a creation is refused for an unknown pod, one that is not ready, and an image that is not here', async () => {
  using lab = openJobLab();
  const sandbox = await lab.launch();
  const create = (pod: string, image = 'app:1') => {
    return lab.containers.create(lab.containerRequest(pod, { image: imageSpec(image) }), {});
  };
  await assert.rejects(create('nobody'), (error) => codeOf(error) === 'SANDBOX_NOT_FOUND');
  await assert.rejects(create(sandbox.id, 'absent:1'), (error) => codeOf(error) === 'IMAGE_NOT_FOUND');
  assert.equal(lab.ctx.store.containers.size, 0, 'a failed creation is undone');
  await lab.pods.stop(sandbox.id, {});
  await assert.rejects(create(sandbox.id), (error) => codeOf(error) === 'NOT_READY');
  lab.jobs.assertClosed();
});

test('a container’s name is taken until the container is removed; one in flight is joined', async () => {
  using lab = openJobLab();
  const sandbox = await lab.launch();
  const request = lab.containerRequest(sandbox.id);
  const [a, b] = await Promise.all([lab.containers.create(request, {}), lab.containers.create(request, {})]);
  assert.equal(a, b);
  await assert.rejects(lab.containers.create(request, {}), (error) => codeOf(error) === 'NAME_TAKEN');
  await lab.containers.remove(a, {});
  assert.notEqual(await lab.containers.create(request, {}), a);
});

for (const [call, stage] of [
  ['images.prepareSnapshot', 'rootfs'],
  ['shim.writeBundle', 'bundle'],
] as const) {
  test(`a creation whose ${call} fails is undone from stage ${stage}`, async () => {
    using lab = openJobLab();
    const sandbox = await lab.launch();
    lab.hooks.set(call, failure);
    await assert.rejects(lab.add(sandbox), (error) => error instanceof JobError && error.stage === stage);
    assert.equal(lab.ctx.store.containers.size, 0);
    assert.equal(lab.services.retries.pending, 0);
    assert.deepEqual((await types(lab)).slice(2), []);
    lab.jobs.assertClosed();
  });
}

test('a creation whose undo fails gives its name back; each retry is one job, until nothing is left', async () => {
  using lab = openJobLab();
  const sandbox = await lab.launch();
  let refusals = 3; // the undo of the creation, and two retries
  lab.hooks.set('shim.writeBundle', failure);
  lab.hooks.set('images.removeSnapshot', () => {
    if (refusals-- > 0) throw new SluiceError('NAMESPACE_FAILED', 'busy');
  });
  await assert.rejects(lab.add(sandbox), (error) => error instanceof JobError && error.stuck !== undefined);
  const [row] = [...lab.ctx.store.containers.values()];
  assert.equal(row?.state, 'removing');
  assert.match(row.cleanup?.failed ?? '', /undo of stage rootfs: busy/);
  assert.equal(lab.ctx.containerNames.owner(row.name), undefined);
  await eventually(() => lab.services.retries.pending === 0);
  assert.equal(lab.ctx.store.containers.size, 0);
  assert.equal(row.cleanup?.attempts, 2);
  const retries = lab.jobs.jobs.filter(({ start }) => start.origin === 'cleanup');
  assert.deepEqual(
    retries.map(({ calls }) => [calls[1], calls.at(-1)]),
    [
      ['started', 'ended!'],
      ['started', 'ended!'],
      ['started', 'ended'],
    ],
  );
  lab.jobs.assertClosed();
});

for (const call of ['stdio.openIo', 'task.create', 'task.start']) {
  test(`a start whose ${call} fails leaves the container exited with StartError, and no task`, async () => {
    using lab = openJobLab();
    const sandbox = await lab.launch();
    const row = await lab.add(sandbox, {}, { start: false });
    lab.hooks.set(call, failure);
    await assert.rejects(lab.containers.start(row.id, {}), (error) => /runc refused/.test(explain(error)));
    assert.equal(row.state, 'exited');
    assert.equal(row.reason, 'StartError');
    assert.equal(row.exitCode, 128);
    assert.match(row.message, /runc refused/);
    assert.equal(shimOf(lab, sandbox).tasks.has(row.id), false);
    assert.ok(lab.calls.includes('stdio.removeIo'));
    assert.equal((await types(lab)).at(-1), 'stopped');
    lab.jobs.assertClosed();
  });
}

test('a start that cannot be undone is undone later: only then has the container exited; each retry is one job', async () => {
  using lab = openJobLab();
  const sandbox = await lab.launch();
  const row = await lab.add(sandbox, {}, { start: false });
  let refusals = 2; // the undo of the start, and one retry
  lab.hooks.set('task.start', failure);
  lab.hooks.set('task.delete', () => {
    if (refusals-- > 0) throw new SluiceError('RUNTIME_FAILED', 'device busy');
  });
  await assert.rejects(lab.containers.start(row.id, {}), (error) => error instanceof JobError && !!error.stuck);
  assert.equal(row.state, 'starting');
  await assert.rejects(lab.containers.start(row.id, {}), (error) => codeOf(error) === 'NOT_READY');
  await eventually(() => lab.services.retries.pending === 0);
  assert.equal(row.state, 'exited');
  assert.equal(row.reason, 'StartError');
  assert.match(row.message, /runc refused/, 'what failed first, not what the undo said');
  const retries = lab.jobs.jobs.filter(({ start }) => start.origin === 'recovery');
  assert.deepEqual(
    retries.map(({ calls }) => [calls[1], calls.at(-1)]),
    [
      ['started', 'ended!'],
      ['started', 'ended'],
    ],
  );
  lab.jobs.assertClosed();
});

test('a start that was never admitted leaves the container created', async () => {
  using lab = openJobLab();
  const sandbox = await lab.launch();
  const row = await lab.add(sandbox, {}, { start: false });
  await assert.rejects(
    lab.containers.start(row.id, { left: AbortSignal.abort('deadline') }),
    (error) => codeOf(error) === 'DEADLINE_PASSED',
  );
  assert.equal(row.state, 'created');
  await lab.containers.start(row.id, {});
  assert.equal(row.state, 'running');
});

test('only a created container of a ready pod with a living shim can be started', async () => {
  using lab = openJobLab();
  const sandbox = await lab.launch();
  const row = await lab.add(sandbox);
  await assert.rejects(lab.containers.start('nobody', {}), (error) => codeOf(error) === 'CONTAINER_NOT_FOUND');
  await assert.rejects(lab.containers.start(row.id, {}), (error) => codeOf(error) === 'NOT_READY');
  const second = await lab.add(sandbox, { metadata: { name: 'second', attempt: 0 } }, { start: false });
  shimOf(lab, sandbox).state = 'dead';
  await assert.rejects(lab.containers.start(second.id, {}), (error) => codeOf(error) === 'SHIM_FAILED');
  shimOf(lab, sandbox).state = 'unknown';
  await assert.rejects(lab.containers.start(second.id, {}), /neither alive nor dead/);
  assert.equal(second.state, 'created');
});

test('a stop without grace sends SIGKILL alone', async () => {
  using lab = openJobLab();
  const row = await lab.add(await lab.launch());
  await lab.containers.stop(row.id, 0, {});
  assert.deepEqual(
    tasks(lab).filter((call) => call.startsWith('task.kill')),
    ['task.kill 9'],
  );
  assert.equal(row.exitCode, 137);
  assert.equal(row.reason, 'Error', 'our own SIGKILL is no OOM kill');
});

test('a stop sends the stop signal, waits out the grace, then sends SIGKILL', async () => {
  using lab = openJobLab();
  const sandbox = await lab.launch();
  const row = await lab.add(sandbox);
  shimOf(lab, sandbox).obeys = false;
  const began = performance.now();
  await lab.containers.stop(row.id, 0.02, {});
  assert.ok(performance.now() - began >= 19);
  assert.deepEqual(
    tasks(lab).filter((call) => call.startsWith('task.kill')),
    ['task.kill 15', 'task.kill 9'],
  );
});

test('the stop signal goes out once, and the stop with the shortest grace ends both', async () => {
  using lab = openJobLab();
  const sandbox = await lab.launch();
  const row = await lab.add(sandbox);
  shimOf(lab, sandbox).obeys = false;
  const patient = lab.containers.stop(row.id, 3600, {});
  await eventually(() => lab.calls.includes('task.kill 15'));
  await lab.containers.stop(row.id, 0.01, {});
  await patient;
  assert.deepEqual(
    tasks(lab).filter((call) => call.startsWith('task.kill')),
    ['task.kill 15', 'task.kill 9'],
  );
  lab.jobs.assertClosed();
});

test('a stop of an ended or unknown container is fine and takes no job', async () => {
  using lab = openJobLab();
  const sandbox = await lab.launch();
  const row = await lab.add(sandbox, {}, { start: false });
  const before = lab.jobs.jobs.length;
  await lab.containers.stop(row.id, 0, {});
  await lab.containers.stop('nobody', 0, {});
  await lab.containers.remove('nobody', {});
  assert.equal(lab.jobs.jobs.length, before);
  assert.equal(row.state, 'created');
});

test('a removal kills a running container first', async () => {
  using lab = openJobLab();
  const row = await lab.add(await lab.launch());
  await lab.containers.remove(row.id, {});
  assert.equal(lab.ctx.store.containers.size, 0);
  assert.ok(tasks(lab).includes('task.kill 9'));
  assert.deepEqual((await types(lab)).slice(4), ['stopped', 'deleted']);
});

test('a removal that fails goes back to the state before, and can be tried again', async () => {
  using lab = openJobLab();
  const row = await lab.add(await lab.launch());
  await lab.containers.stop(row.id, 0, {});
  lab.hooks.set('images.removeSnapshot', failure);
  await assert.rejects(lab.containers.remove(row.id, {}), /rootfs/);
  assert.equal(row.state, 'exited');
  assert.equal(lab.ctx.containerNames.owner(row.name), row.id, 'the name stays taken');
  lab.hooks.delete('images.removeSnapshot');
  await lab.containers.remove(row.id, {});
  assert.equal(lab.ctx.store.containers.size, 0);
  lab.jobs.assertClosed();
});

test('a task that could not be deleted when it ended is deleted by the removal', async () => {
  using lab = openJobLab();
  const row = await lab.add(await lab.launch());
  lab.hooks.set('task.delete', failure);
  await lab.containers.stop(row.id, 0, {});
  assert.match(row.taskKept ?? '', /runc refused/);
  await assert.rejects(lab.containers.remove(row.id, {}), /runc refused/);
  assert.equal(row.state, 'exited');
  lab.hooks.delete('task.delete');
  await lab.containers.remove(row.id, {});
  assert.equal(lab.ctx.store.containers.size, 0);
});

test('a pod’s containers are killed four at a time', async () => {
  using lab = openJobLab();
  const sandbox = await lab.launch();
  for (let n = 0; n < 6; n++) await lab.add(sandbox, { metadata: { name: `app${n}`, attempt: 0 } });
  let killing = 0;
  let most = 0;
  lab.hooks.set('task.kill 9', async () => {
    most = Math.max(most, ++killing);
    await new Promise((resolve) => setTimeout(resolve, 2));
    killing--;
  });
  await lab.containers.killAll(sandbox.id);
  assert.equal(most, 4);
  assert.ok([...lab.ctx.store.containers.values()].every(({ state }) => state === 'exited'));
});

test('an update changes the runtime of a running container, and keeps what it does not name', async () => {
  using lab = openJobLab();
  const linux = containerLinux({ resources: resources({ cpuShares: 512n, cpuPeriod: 100n }) });
  const row = await lab.add(await lab.launch(), { linux });
  const updated: unknown[] = [];
  lab.hooks.set('task.update', (input) => void updated.push(input));
  await lab.containers.update(row.id, resources({ cpuShares: 1024n }), {});
  assert.equal(updated.length, 1);
  assert.equal(row.config.linux?.resources?.cpuShares, 1024n);
  assert.equal(row.config.linux?.resources?.cpuPeriod, 100n);
  await lab.containers.stop(row.id, 0, {});
  await lab.containers.update(row.id, resources({ cpuShares: 2n }), {});
  assert.equal(updated.length, 1, 'an exited container is left as it is');
  assert.equal(row.config.linux?.resources?.cpuShares, 1024n);
});

test('a host path that the worker refuses fails the creation with its words, and nothing is left', async () => {
  using lab = openJobLab();
  lab.hooks.set('shim.resolveHostPaths', new SluiceError('INVALID_REQUEST', '/nonexistent/for/sure does not exist'));
  const mounts = [mount({ hostPath: '/nonexistent/for/sure', containerPath: '/data' })];
  await assert.rejects(lab.add(await lab.launch(), { mounts }), (error) => {
    return codeOf(error) === 'INVALID_REQUEST' && /nonexistent/.test(explain(error));
  });
  assert.equal(lab.ctx.store.containers.size, 0);
});
