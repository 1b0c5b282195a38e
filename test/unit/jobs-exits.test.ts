import assert from 'node:assert/strict';
import { syncBuiltinESMExports } from 'node:module';
import { mock, type TestContext, test } from 'node:test';
import { SluiceError } from '../../src/errors.ts';
import { eventually, type JobLab, openJobLab } from './job-fixture.ts';

/** A running container in a pod. */
async function running(lab: JobLab) {
  const sandbox = await lab.launch();
  const row = await lab.add(sandbox);
  const shim = lab.shims.get(sandbox.id) ?? assert.fail('no shim');
  const end = async (exitStatus: number) => {
    shim.exit(row.id, exitStatus);
    await lab.exits.containerEnded(row.id);
  };
  return { sandbox, row, shim, end };
}

const ended = ({ exitCode, reason, message }: { exitCode: number; reason: string; message: string }) => [
  exitCode,
  reason,
  message,
];

const oomOf = (containerId: string) =>
  ({ kind: 'TaskOOM', namespace: 'k8s.io', at: 0n, event: { containerId } }) as const;

for (const [status, reason, counted] of [
  [0, 'Completed', 'zero'],
  [3, 'Error', 'nonzero'],
  [143, 'Error', 'signal'],
  [255, 'Error', 'nonzero'],
] as const) {
  test(`an end with status ${status} is ${reason} and counts as ${counted}`, async () => {
    using lab = openJobLab();
    const { row, end } = await running(lab);
    await end(status);
    assert.equal(row.state, 'exited');
    assert.deepEqual(ended(row), [status, reason, '']);
    assert.ok(row.finishedAt >= row.startedAt);
    assert.deepEqual(lab.counted, [`exits ${counted}`]);
    assert.deepEqual((await lab.published()).at(-1), ['stopped', row.id, row.sandbox]);
  });
}

test('the end is recorded when the log is drained and the task deleted, in this order, and the state stays running until then', async () => {
  using lab = openJobLab();
  const { row, end } = await running(lab);
  const states: unknown[] = [];
  for (const call of ['stdio.drain', 'stdio.removeIo', 'task.delete']) {
    lab.hooks.set(call, () => void states.push([call, row.state, row.finishedAt > 0n]));
  }
  await end(0);
  assert.deepEqual(states, [
    ['stdio.drain', 'running', false],
    ['stdio.removeIo', 'running', true],
    ['task.delete', 'running', true],
  ]);
  assert.equal(row.state, 'exited');
});

test('a task that cannot be deleted does not keep the end from being recorded; the row says what is left', async () => {
  using lab = openJobLab();
  const { row, end } = await running(lab);
  lab.hooks.set('task.delete', new SluiceError('RUNTIME_FAILED', 'device busy'));
  await end(0);
  assert.equal(row.state, 'exited');
  assert.equal(row.taskKept, 'device busy');
});

test('SIGKILL that nobody here sent is an OOM kill when the cgroup has counted one', async () => {
  using lab = openJobLab();
  const { row, end } = await running(lab);
  lab.hooks.set('shim.oomKills', () => 1n);
  await end(137);
  assert.equal(row.reason, 'OOMKilled');
  assert.deepEqual(lab.counted, ['exits oom']);
});

test('SIGKILL is an error when the cgroup has counted no OOM kill', async () => {
  using lab = openJobLab();
  const { row, end } = await running(lab);
  lab.hooks.set('shim.oomKills', () => 0n);
  await end(137);
  assert.equal(row.reason, 'Error');
  assert.ok(!lab.calls.includes('shim.oomKillLogged'));
});

test('where the cgroup is gone the kernel’s log decides', async () => {
  using lab = openJobLab();
  const { row, end } = await running(lab);
  lab.hooks.set('shim.oomKillLogged', () => true);
  await end(137);
  assert.equal(row.reason, 'OOMKilled');
});

test('where the cgroup is gone, SIGKILL that the daemon sent is no OOM kill', async () => {
  using lab = openJobLab();
  const { row } = await running(lab);
  lab.hooks.set('shim.oomKillLogged', () => true);
  await lab.containers.stop(row.id, 0, {});
  assert.equal(row.reason, 'Error');
});

test('other ends are not asked for OOM kills', async () => {
  using lab = openJobLab();
  const { end } = await running(lab);
  await end(1);
  assert.ok(!lab.calls.includes('shim.oomKills'));
});

test('an OOM event makes the end that follows an OOM kill, whatever its status', async () => {
  using lab = openJobLab();
  const { row, end } = await running(lab);
  lab.exits.onShimEvent(oomOf(row.id));
  await end(1);
  assert.equal(row.reason, 'OOMKilled');
});

test('an OOM event that comes after the end corrects its reason', async () => {
  using lab = openJobLab();
  const { row, end } = await running(lab);
  await end(1);
  assert.equal(row.reason, 'Error');
  lab.exits.onShimEvent(oomOf(row.id));
  assert.equal(row.reason, 'OOMKilled');
  lab.exits.onShimEvent(oomOf('nobody'));
});

test('an OOM event leaves the reason of a failed start as it is', async () => {
  using lab = openJobLab();
  const row = await lab.add(await lab.launch(), {}, { start: false });
  lab.hooks.set('task.start', new SluiceError('RUNTIME_FAILED', 'runc refused'));
  await assert.rejects(lab.containers.start(row.id, {}));
  lab.exits.onShimEvent(oomOf(row.id));
  assert.equal(row.reason, 'StartError');
});

test('a broken connection to a shim that lives is found again, and the end comes from there', async () => {
  using lab = openJobLab();
  const { row, shim } = await running(lab);
  const task = shim.tasks.get(row.id) ?? assert.fail('no task');
  const broken = task.ended;
  task.ended = Promise.withResolvers();
  broken.reject(new SluiceError('SHIM_FAILED', 'the connection broke'));
  await eventually(() => lab.calls.filter((call) => call === 'task.wait').length >= 3); // pause, first, again
  assert.equal(row.state, 'running');
  shim.exit(row.id, 7);
  await lab.exits.containerEnded(row.id);
  assert.deepEqual(ended(row), [7, 'Error', '']);
});

test('a container whose shim died is cleaned up, and ends with an unknown exit code', async () => {
  using lab = openJobLab();
  const { row, shim } = await running(lab);
  shim.die();
  await lab.exits.containerEnded(row.id);
  assert.equal(row.state, 'exited');
  assert.deepEqual(ended(row), [255, 'Unknown', 'the connection to the shim broke']);
  assert.ok(lab.calls.includes('shim.cleanupShim') && lab.calls.includes('shim.removeCgroups'));
  assert.ok(!lab.calls.includes('task.delete'));
});

test('a clean-up after a dead shim that fails is logged, and the end recorded all the same', async () => {
  using lab = openJobLab();
  const { row, shim } = await running(lab);
  lab.hooks.set('shim.cleanupShim', new SluiceError('RUNTIME_FAILED', 'cannot delete'));
  shim.die();
  await lab.exits.containerEnded(row.id);
  assert.equal(row.exitCode, 255);
  assert.ok(lab.lines.some(({ level }) => level === 'error'));
});

/** Moves the clock from look to look at a shim. */
function lookTimer(t: TestContext) {
  mock.timers.enable({ apis: ['setTimeout'] });
  syncBuiltinESMExports(); // for those who imported `setTimeout` of node:timers/promises by name
  t.after(() => {
    mock.timers.reset();
    syncBuiltinESMExports();
  });
  const turn = () => new Promise<void>((resolve) => setImmediate(resolve));
  return async (ms: number) => {
    await turn();
    mock.timers.tick(ms);
    await turn();
  };
}

test('of a shim that is neither alive nor dead nothing is recorded; it is looked at again every five seconds', async (t) => {
  using lab = openJobLab();
  const { row, shim } = await running(lab);
  const pass = lookTimer(t);
  shim.die('unknown');
  await pass(4999);
  assert.equal(row.state, 'running');
  assert.ok(!lab.calls.includes('shim.cleanupShim'));
  shim.state = 'dead';
  await pass(1);
  await lab.exits.containerEnded(row.id);
  assert.deepEqual([row.state, row.exitCode], ['exited', 255]);
});

test('a daemon that ends records nothing: the next one asks again', async () => {
  using lab = openJobLab();
  const { row, sandbox, shim } = await running(lab);
  lab.ending.abort();
  shim.die();
  await lab.exits.containerEnded(row.id);
  assert.deepEqual([row.state, row.finishedAt, sandbox.state], ['running', 0n, 'ready']);
});

test('an end that an earlier daemon has noted is recorded as it was, without asking for it', async () => {
  using lab = openJobLab();
  const { row, shim, end } = await running(lab);
  await end(3);
  row.state = 'running'; // as after a crash between the note and the record
  const waits = lab.calls.filter((call) => call === 'task.wait').length;
  lab.exits.watchContainer(row, shim.shim);
  await lab.exits.containerEnded(row.id);
  assert.equal(lab.calls.filter((call) => call === 'task.wait').length, waits);
  assert.deepEqual([row.state, row.exitCode], ['exited', 3]);
});

test('the stop signal counts as sent from the first question on; of what is not watched it always is', async () => {
  using lab = openJobLab();
  const { row } = await running(lab);
  assert.equal(lab.exits.stopSignalled(row.id), false);
  assert.equal(lab.exits.stopSignalled(row.id), true);
  assert.equal(lab.exits.stopSignalled('nobody'), true);
  lab.exits.killing('nobody');
  await lab.exits.containerEnded('nobody');
});

test('a pod whose pause process ends is not ready any more, and says so once', async () => {
  using lab = openJobLab();
  const sandbox = await lab.launch();
  lab.shims.get(sandbox.id)?.exit(sandbox.id, 0);
  await eventually(() => sandbox.state === 'notready');
  assert.deepEqual((await lab.published()).slice(2), [['stopped', sandbox.id, sandbox.id]]);
  assert.ok(!lab.calls.includes('network.del'), 'the network is held until StopPodSandbox');
});

test('a pod whose shim dies is not ready any more', async () => {
  using lab = openJobLab();
  const sandbox = await lab.launch();
  lab.shims.get(sandbox.id)?.die();
  await eventually(() => sandbox.state === 'notready');
});

test('a pause process that ends while its pod is being stopped makes it not ready, without a warning', async () => {
  using lab = openJobLab();
  const sandbox = await lab.launch();
  using _exclusive = await lab.locks.take('pod', sandbox.id, 'exclusive');
  lab.shims.get(sandbox.id)?.exit(sandbox.id, 0);
  await eventually(() => sandbox.state === 'notready');
  assert.deepEqual(
    lab.lines.filter(({ level }) => level === 'warn'),
    [],
  );
});

test('a daemon that ends leaves its pods ready: the broken connection is its own doing', async () => {
  using lab = openJobLab();
  const sandbox = await lab.launch();
  lab.ending.abort();
  lab.shims.get(sandbox.id)?.die();
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(sandbox.state, 'ready');
});

for (const call of ['stdio.drain', 'stdio.removeIo', 'shim.oomKills']) {
  test(`a ${call} that fails at a container’s end changes neither its exit code nor its state, and is logged`, async () => {
    using lab = openJobLab();
    const { row, end } = await running(lab);
    lab.hooks.set(call, new SluiceError('INTERNAL', 'the worker died'));
    await end(137);
    assert.deepEqual([row.state, ...ended(row)], ['exited', 137, 'Error', '']);
    assert.ok(lab.lines.some(({ level, message }) => level === 'warn' && /container’s end/.test(message)));
    await lab.containers.remove(row.id, {});
    assert.equal(lab.ctx.store.containers.size, 0);
  });
}

test('an end is not noted when the daemon ends while the log is drained', async () => {
  using lab = openJobLab();
  const { row, end } = await running(lab);
  lab.hooks.set('stdio.drain', () => lab.ending.abort());
  await end(0);
  assert.deepEqual([row.state, row.finishedAt], ['running', 0n]);
});
