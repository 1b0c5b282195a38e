import assert from 'node:assert/strict';
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { mock, test } from 'node:test';
import { SluiceError } from '../../src/errors.ts';
import type { ContainerState } from '../../src/node/store/container.ts';
import type { SandboxState } from '../../src/node/store/sandbox.ts';
import { collectNetworkGarbage, collectRegularly } from '../../src/pipeline/jobs/network-gc.ts';
import { recover, sweepNetwork } from '../../src/pipeline/jobs/recover.ts';
import { eventually, type JobLab, openJobLab } from './job-fixture.ts';

/** What a daemon leaves in the store: rows alone, in these states; names and watches are gone. */
async function left(lab: JobLab, sandboxState: SandboxState, containerState?: ContainerState) {
  const sandbox = await lab.launch();
  // Not started here: what an earlier daemon has started, this one does not watch.
  const row = await lab.add(sandbox, undefined, { start: false });
  if (containerState === undefined) lab.ctx.store.containers.delete(row.id);
  else row.state = containerState;
  sandbox.state = sandboxState;
  const shim = lab.shims.get(sandbox.id) ?? assert.fail('no shim');
  if (containerState === 'running') shim.tasks.set(row.id, { started: true, ended: Promise.withResolvers() });
  lab.ctx.sandboxNames.release(sandbox.name, sandbox.id);
  lab.ctx.containerNames.release(row.name, row.id);
  lab.calls.length = 0;
  return { sandbox, row, shim };
}

/** Resolves when every pod was looked for; the daemon serves before. */
const start = async (lab: JobLab) => (await recover(lab)).complete;
const NONE = { alive: 0, dead: 0, unknown: 0, undone: 0 };

test('a pod whose shim answers is there again, with its name, its containers and their ends', async () => {
  using lab = openJobLab();
  const { sandbox, row, shim } = await left(lab, 'ready', 'running');
  assert.deepEqual(await start(lab), { ...NONE, alive: 1 });
  assert.equal(sandbox.state, 'ready');
  assert.equal(lab.ctx.sandboxNames.owner(sandbox.name), sandbox.id);
  assert.equal(lab.ctx.containerNames.owner(row.name), row.id);
  assert.ok(lab.calls.includes('stdio.openIo'), 'its output is read again');
  shim.exit(row.id, 3);
  await eventually(() => row.state === 'exited');
  assert.equal(row.exitCode, 3);
});

test('the end of a found pod’s pause process is watched again', async () => {
  using lab = openJobLab();
  const { sandbox, shim } = await left(lab, 'ready');
  await start(lab);
  shim.exit(sandbox.id, 0);
  await eventually(() => sandbox.state === 'notready');
});

test('a pod whose shim is dead is not ready, and what ran in it has ended with an unknown exit code', async () => {
  using lab = openJobLab();
  const { sandbox, row, shim } = await left(lab, 'ready', 'running');
  shim.state = 'dead';
  assert.deepEqual(await start(lab), { ...NONE, dead: 1 });
  assert.equal(sandbox.state, 'notready');
  assert.equal(row.state, 'running', 'it is cleaned up in the background');
  await eventually(() => row.state === 'exited');
  assert.deepEqual([row.exitCode, row.reason], [255, 'Unknown']);
  for (const call of ['shim.killLeftovers', 'shim.cleanupShim', 'stdio.drain', 'stdio.removeIo']) {
    assert.ok(lab.calls.includes(call), call);
  }
  assert.deepEqual(lab.counted, ['exits nonzero']);
});

test('an end that was noted before the daemon died is recorded as it was, also without a shim', async () => {
  using lab = openJobLab();
  const { row, shim } = await left(lab, 'ready', 'running');
  Object.assign(row, { exitCode: 7, reason: 'Error', finishedAt: 5n });
  shim.state = 'dead';
  await start(lab);
  await eventually(() => row.state === 'exited');
  assert.deepEqual([row.exitCode, row.reason, row.finishedAt], [7, 'Error', 5n]);
});

test('a pod that was not ready already is found dead without further words', async () => {
  using lab = openJobLab();
  const { sandbox, shim } = await left(lab, 'notready');
  shim.state = 'dead';
  assert.deepEqual(await start(lab), { ...NONE, dead: 1 });
  assert.equal(sandbox.state, 'notready');
});

test('of a shim that is neither alive nor dead nothing is touched; it is looked at again after five seconds', async (t) => {
  using lab = openJobLab();
  const { sandbox, row, shim } = await left(lab, 'ready', 'running');
  mock.timers.enable({ apis: ['setTimeout'] });
  t.after(() => mock.timers.reset());
  const turn = () => new Promise<void>((resolve) => setImmediate(resolve));
  shim.state = 'unknown';
  assert.deepEqual(await start(lab), { ...NONE, unknown: 1 });
  assert.deepEqual([sandbox.state, row.state], ['ready', 'running']);
  assert.deepEqual(lab.calls, ['shim.endAbandoned'], 'only the helpers of the dead daemon are looked for');
  assert.equal(lab.ctx.sandboxNames.owner(sandbox.name), sandbox.id, 'its name stays taken');
  mock.timers.tick(4999);
  await turn();
  assert.equal(sandbox.state, 'ready');
  shim.state = 'dead';
  mock.timers.tick(1);
  await turn();
  await turn();
  assert.equal(sandbox.state, 'notready');
});

for (const state of ['creating', 'removing'] as const) {
  test(`a pod that the daemon left ${state} is undone in the background, with its name free at once`, async () => {
    using lab = openJobLab();
    const { sandbox, row } = await left(lab, state, state === 'creating' ? undefined : 'exited');
    assert.deepEqual(await start(lab), { ...NONE, undone: 1 });
    assert.equal(lab.ctx.sandboxNames.owner(sandbox.name), undefined);
    await eventually(() => lab.services.retries.pending === 0);
    assert.equal(lab.ctx.store.sandboxes.size, 0);
    assert.equal(lab.ctx.store.containers.get(row.id), undefined);
    for (const call of ['network.del', 'net.unpinNamespaces', 'images.removeSnapshot', 'shims.shutdown']) {
      assert.ok(lab.calls.includes(call), call);
    }
    lab.jobs.assertClosed();
  });
}

test('a pod that took the name of one whose clean-up was pending keeps it', async () => {
  using lab = openJobLab();
  const { sandbox } = await left(lab, 'removing');
  const next = await lab.launch();
  lab.ctx.sandboxNames.release(next.name, next.id);
  assert.equal(next.name, sandbox.name);
  assert.deepEqual(await start(lab), { ...NONE, alive: 1, undone: 1 });
  assert.equal(lab.ctx.sandboxNames.owner(next.name), next.id);
  await eventually(() => lab.services.retries.pending === 0);
  assert.deepEqual([...lab.ctx.store.sandboxes.values()], [next]);
  assert.equal(lab.ctx.sandboxNames.owner(next.name), next.id);
});

for (const state of ['creating', 'removing'] as const) {
  test(`a container that the daemon left ${state} in a living pod is undone in the background`, async () => {
    using lab = openJobLab();
    const { sandbox, row } = await left(lab, 'ready', state);
    await start(lab);
    assert.equal(lab.ctx.containerNames.owner(row.name), undefined);
    await eventually(() => lab.services.retries.pending === 0);
    assert.equal(lab.ctx.store.containers.size, 0);
    assert.equal(sandbox.state, 'ready');
    lab.jobs.assertClosed();
  });
}

test('an image that the dead daemon had mounted to copy a volume is unmounted before its folder is removed', async () => {
  using lab = openJobLab();
  const { row } = await left(lab, 'ready', 'creating');
  const mounted = join(row.rootDir, 'copy-up');
  mkdirSync(mounted, { recursive: true });
  writeFileSync(join(mounted, 'of-the-image'), '');
  lab.hooks.set('shim.removeFolder', (input) => {
    assert.deepEqual(input, { path: row.rootDir, mountPoints: ['copy-up'] });
    assert.ok(existsSync(join(mounted, 'of-the-image')), 'what is mounted is untouched');
    rmSync(row.rootDir, { recursive: true });
  });
  await start(lab);
  await eventually(() => lab.services.retries.pending === 0);
  assert.equal(lab.ctx.store.containers.size, 0);
  assert.equal(existsSync(row.rootDir), false, 'the worker was asked');
  lab.jobs.assertClosed();
});

test('a container that the daemon left starting is undone, and has exited with StartError', async () => {
  using lab = openJobLab();
  const { row, shim } = await left(lab, 'ready', 'starting');
  await start(lab);
  await eventually(() => lab.services.retries.pending === 0);
  assert.deepEqual([row.state, row.reason, row.exitCode], ['exited', 'StartError', 128]);
  assert.match(row.message, /the daemon ended while/);
  assert.equal(shim.tasks.has(row.id), false, 'its task is gone');
  lab.jobs.assertClosed();
});

for (const state of ['created', 'exited'] as const) {
  test(`a container that was ${state} is as it was`, async () => {
    using lab = openJobLab();
    const { row } = await left(lab, 'ready', state);
    await start(lab);
    assert.equal(row.state, state);
    assert.equal(lab.ctx.containerNames.owner(row.name), row.id);
  });
}

test('a stopped pod keeps its state and its name', async () => {
  using lab = openJobLab();
  const { sandbox, row } = await left(lab, 'stopped', 'exited');
  assert.deepEqual(await start(lab), NONE);
  assert.equal(sandbox.state, 'stopped');
  assert.deepEqual([lab.ctx.sandboxNames.owner(sandbox.name), row.state], [sandbox.id, 'exited']);
});

test('a container whose log cannot be opened is watched all the same; opening it is tried again', async () => {
  using lab = openJobLab();
  const { sandbox, row } = await left(lab, 'ready', 'running');
  let refusals = 2;
  lab.hooks.set('stdio.openIo', () => {
    if (refusals-- > 0) throw new Error('no such device');
  });
  assert.deepEqual(await start(lab), { ...NONE, alive: 1 });
  assert.equal(sandbox.state, 'ready');
  assert.equal(lab.exits.watches(row.id), true);
  await eventually(() => lab.services.retries.pending === 0);
  assert.equal(lab.calls.filter((call) => call === 'stdio.openIo').length, 3);
  assert.ok(lab.lines.some(({ level, message }) => level === 'warn' && /cannot be opened yet/.test(message)));
});

test('a container of a dead shim that cannot be cleaned up keeps no other from it, and is tried again', async () => {
  using lab = openJobLab();
  const { sandbox, row, shim } = await left(lab, 'ready', 'running');
  const second = { ...row, id: 'second', name: 'second' };
  lab.ctx.store.containers.put(second);
  shim.state = 'dead';
  let fails = true;
  lab.hooks.set('shim.cleanupShim', (input) => {
    if (fails && (input as { id: string }).id === row.id) throw new Error('the worker died');
  });
  assert.deepEqual(await start(lab), { ...NONE, dead: 1 });
  await eventually(() => second.state === 'exited');
  assert.deepEqual([sandbox.state, row.state], ['notready', 'running']);
  assert.equal(lab.calls.filter((call) => call === 'shim.killLeftovers').length, 1, 'one scan for both');
  assert.ok(lab.lines.some(({ level, message }) => level === 'error' && /it is tried again/.test(message)));
  fails = false;
  await eventually(() => row.state === 'exited');
});

test('a stop of a container of a dead shim waits until that is clean', async () => {
  using lab = openJobLab();
  const { row, shim } = await left(lab, 'ready', 'running');
  shim.state = 'dead';
  const { promise: cleaning, resolve: clean } = Promise.withResolvers<void>();
  lab.hooks.set('shim.cleanupShim', () => cleaning);
  await start(lab);
  let stopped = false;
  const stop = lab.containers.stop(row.id, 0, {}).then(() => {
    stopped = true;
  });
  await eventually(() => lab.calls.includes('shim.cleanupShim'));
  assert.equal(stopped, false);
  clean();
  await stop;
  assert.equal(row.state, 'exited');
});

test('the daemon serves while the shim of a pod does not answer yet', async () => {
  using lab = openJobLab();
  const { sandbox } = await left(lab, 'ready');
  const { promise: answers, resolve: answer } = Promise.withResolvers<void>();
  lab.hooks.set('shims.reattach', () => answers);
  const { complete } = await recover(lab);
  assert.equal(sandbox.state, 'ready');
  answer();
  assert.deepEqual(await complete, { ...NONE, alive: 1 });
});

test('a pod that a later start finds again is stopped and removed like any other', async () => {
  using lab = openJobLab();
  const { sandbox } = await left(lab, 'ready', 'running');
  await start(lab);
  await lab.pods.remove(sandbox.id, {});
  assert.equal(lab.ctx.store.sandboxes.size, 0);
  assert.equal(lab.ctx.store.containers.size, 0);
  lab.jobs.assertClosed();
});

test('strays in the network are released and counted, addresses before namespaces', async () => {
  using lab = openJobLab();
  const { sandbox } = await left(lab, 'ready');
  const attachment = lab.ctx.network.attachment({ id: 'gone', netns: '/run/netns/x', config: sandbox.config });
  lab.hooks.set('network.strays', (known) => {
    const { hasSandbox, hasNetns } = known as { hasSandbox(id: string): boolean; hasNetns(path: string): boolean };
    assert.deepEqual([hasSandbox(sandbox.id), hasSandbox('gone')], [true, false]);
    assert.deepEqual([hasNetns(sandbox.netns), hasNetns('/run/netns/x')], [true, false]);
    return {
      attachments: [attachment],
      unreleased: [{ ...attachment, containerId: 'deleted' }],
      netns: ['/run/netns/x', '/run/netns/y'],
    };
  });
  await sweepNetwork(lab.ctx);
  assert.deepEqual(lab.calls, ['network.strays', 'network.del', 'network.del', 'net.removeNetns', 'net.removeNetns']);
  assert.deepEqual(lab.counted, ['leaks address', 'leaks netns', 'leaks netns']);
});

test('strays that cannot be looked for are logged, and keep nothing from going on', async () => {
  using lab = openJobLab();
  lab.hooks.set('network.strays', new SluiceError('INTERNAL', 'no such folder'));
  await sweepNetwork(lab.ctx);
  assert.ok(lab.lines.some(({ level }) => level === 'error'));
});

test('GC: what no attachment owns is logged and counted; a failure keeps nothing from going on', async () => {
  using lab = openJobLab();
  const asked: unknown[] = [];
  lab.hooks.set('network.gc', (how) => {
    asked.push(how);
    return ['address 10.1.2.3 of a/eth0', 'host port 80/tcp of a/eth0'];
  });
  await collectNetworkGarbage(lab.ctx, { programs: true });
  assert.deepEqual(lab.counted, ['leaks address', 'leaks address']);
  assert.equal(lab.lines.filter(({ level }) => level === 'warn').length, 2);
  lab.hooks.set('network.gc', new SluiceError('CNI_FAILED', 'no'));
  await collectNetworkGarbage(lab.ctx, { programs: true });
  assert.equal(lab.lines.filter(({ level }) => level === 'error').length, 1);
  lab.ctx.config.cni.gc = false;
  await collectNetworkGarbage(lab.ctx, { programs: true });
  assert.equal(lab.calls.length, 2, 'turned off');
  lab.ctx.config.cni.gc = true;
  lab.calls.length = 0;
  {
    using _regularly = collectRegularly(lab.ctx, 5);
    await eventually(() => lab.calls.length > 1);
  }
  assert.deepEqual(asked, [{ programs: true }]);
});
