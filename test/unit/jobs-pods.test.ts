import assert from 'node:assert/strict';
import { test } from 'node:test';
import { NamespaceMode } from '../../proto/gen/cri.ts';
import { codeOf, explain, SluiceError } from '../../src/errors.ts';
import { JobError } from '../../src/pipeline/engine/engine.ts';
import { getSandbox } from '../../src/pipeline/jobs/lookup.ts';
import { namespaces } from '../rig/messages.ts';
import { eventually, openJobLab } from './job-fixture.ts';
import { podWith } from './oci-fixtures.ts';

const failure = new SluiceError('CNI_FAILED', 'no bridge');

test('a launch makes a ready pod with its address and its pause process', async () => {
  using lab = openJobLab();
  const row = await lab.launch();
  assert.equal(row.state, 'ready');
  assert.deepEqual(row.addresses, ['10.1.2.3']);
  assert.equal(row.pid, 201);
  assert.equal(row.image, 'sha256:pause:1');
  assert.equal(lab.ctx.sandboxNames.owner('web_shop_u-1_2'), row.id);
  assert.deepEqual(await lab.published(), [
    ['created', row.id, row.id],
    ['started', row.id, row.id],
  ]);
  lab.jobs.assertClosed();
});

test('the record is written before anything is made', async () => {
  using lab = openJobLab();
  const stored: unknown[] = [];
  lab.hooks.set(
    'net.createNetns',
    () => void stored.push(...[...lab.ctx.store.sandboxes.values()].map((row) => row.netns)),
  );
  const { netns } = await lab.launch();
  assert.deepEqual(stored, [netns]);
});

test('a pod on the host network has no namespace and no CNI', async () => {
  using lab = openJobLab();
  const unpinned: string[] = [];
  lab.hooks.set('net.unpinNamespaces', (input) => void unpinned.push(...(input as { paths: string[] }).paths));
  const row = await lab.launch(podWith({ namespaceOptions: namespaces({ network: NamespaceMode.NODE }) }));
  assert.equal(row.netns, '');
  await lab.pods.stop(row.id, {});
  await lab.pods.remove(row.id, {});
  assert.deepEqual(
    lab.calls.filter((call) => call.startsWith('network.') || call === 'net.createNetns'),
    [],
  );
  assert.deepEqual(unpinned, []);
});

test('a call of the same name joins the launch in flight and gets its id', async () => {
  using lab = openJobLab();
  const gate = Promise.withResolvers<void>();
  lab.hooks.set('network.add', () => gate.promise);
  const calls = [lab.pods.run(lab.podRequest(), {}), lab.pods.run(lab.podRequest(), {})];
  await eventually(() => lab.calls.includes('network.add'));
  gate.resolve();
  const [first, second] = await Promise.all(calls);
  assert.equal(first, second);
  assert.equal(lab.ctx.store.sandboxes.size, 1);
  assert.equal(lab.jobs.jobs.length, 1);
  assert.ok(lab.jobs.jobs[0]?.calls.includes('joined'));
});

test('a call of the same name with another runtime handler does not join', async () => {
  using lab = openJobLab();
  const { runtimes } = lab.ctx.config;
  runtimes.crun = runtimes.runc ?? assert.fail('no runtime');
  const gate = Promise.withResolvers<void>();
  lab.hooks.set('network.add', () => gate.promise);
  const first = lab.pods.run(lab.podRequest(), {});
  await assert.rejects(lab.pods.run(lab.podRequest({}, 'crun'), {}), (error) => codeOf(error) === 'NAME_TAKEN');
  gate.resolve();
  await first;
});

test('the name of a pod is taken until the pod is removed', async () => {
  using lab = openJobLab();
  const row = await lab.launch();
  const again = () => lab.pods.run(lab.podRequest(), {});
  await assert.rejects(again(), (error) => codeOf(error) === 'NAME_TAKEN' && explain(error).includes(row.id));
  await lab.pods.stop(row.id, {});
  await assert.rejects(again(), (error) => codeOf(error) === 'NAME_TAKEN');
  await lab.pods.remove(row.id, {});
  assert.notEqual(await again(), row.id);
});

test('a launch that fails names its stage, and leaves no row, no name and nothing made', async () => {
  using lab = openJobLab();
  lab.hooks.set('network.add', failure);
  await assert.rejects(lab.launch(), (error) => error instanceof JobError && error.stage === 'network' && !error.stuck);
  assert.equal(lab.ctx.store.sandboxes.size, 0);
  assert.equal(lab.ctx.sandboxNames.owner('web_shop_u-1_2'), undefined);
  const at = (call: string) => lab.calls.indexOf(call);
  assert.ok(at('network.del') > at('network.add'), 'DEL also after a failed ADD');
  assert.ok(at('net.unpinNamespaces') > at('network.del'), 'the namespace outlives its network');
  assert.deepEqual(await lab.published(), []);
  lab.hooks.delete('network.add');
  assert.equal((await lab.launch()).state, 'ready');
  lab.jobs.assertClosed();
});

for (const [call, stage] of [
  ['net.createNetns', 'netns'],
  ['images.prepareSnapshot', 'rootfs'],
  ['shim.sandboxFiles', 'files'],
  ['shim.startShim', 'shim'],
  ['shims.connect', 'shim'],
  ['task.create', 'create'],
  ['task.start', 'start'],
] as const) {
  test(`a launch whose ${call} fails is undone from stage ${stage}`, async () => {
    using lab = openJobLab();
    lab.hooks.set(call, failure);
    await assert.rejects(lab.launch(), (error) => error instanceof JobError && error.stage === stage && !error.stuck);
    assert.equal(lab.ctx.store.sandboxes.size, 0);
    assert.equal(lab.services.retries.pending, 0);
    assert.ok(lab.calls.includes('network.del') || !lab.calls.includes('network.add'));
    assert.ok(lab.calls.includes('shim.removeBundle') || !lab.calls.includes('shim.startShim'));
    assert.equal(lab.shims.size, 0, 'no shim is left');
    lab.jobs.assertClosed();
  });
}

test('a launch whose undo fails keeps its row and gives its name back; each retry is one job, until nothing is left', async () => {
  using lab = openJobLab();
  let refusals = 3; // the undo of the launch, and two retries
  lab.hooks.set('network.add', failure);
  lab.hooks.set('network.del', () => {
    if (refusals-- > 0) throw new SluiceError('CNI_FAILED', 'DEL refused');
  });
  await assert.rejects(lab.launch(), (error) => error instanceof JobError && error.stuck !== undefined);
  const [row] = [...lab.ctx.store.sandboxes.values()];
  assert.equal(row?.state, 'removing');
  assert.match(row.cleanup?.failed ?? '', /undo of stage network: DEL refused/);
  assert.equal(lab.ctx.sandboxNames.owner(row.name), undefined);
  lab.hooks.delete('network.add');
  assert.equal((await lab.launch()).state, 'ready', 'the name is free meanwhile');
  await eventually(() => lab.services.retries.pending === 0);
  assert.deepEqual(
    [...lab.ctx.store.sandboxes.values()].map(({ state }) => state),
    ['ready'],
  );
  assert.equal(row.cleanup?.attempts, 2);
  lab.jobs.assertClosed();
  const retries = lab.jobs.jobs.filter(({ start }) => start.origin === 'cleanup');
  assert.deepEqual(
    retries.map(({ calls }) => calls.at(-1)),
    ['ended!', 'ended!', 'ended'],
  );
});

test('a stop ends processes and network, and keeps what a removal needs', async () => {
  using lab = openJobLab();
  const row = await lab.launch();
  const { netns } = row;
  await lab.pods.stop(row.id, {});
  assert.equal(row.state, 'stopped');
  assert.equal(row.shimEnded, true);
  assert.equal(row.network, undefined, 'DEL is not run twice');
  assert.ok(lab.calls.includes('net.unpinNamespaces') && netns !== '');
  assert.ok(!lab.calls.includes('images.removeSnapshot'));
  const jobs = lab.jobs.jobs.length;
  await lab.pods.stop(row.id, {});
  assert.equal(lab.jobs.jobs.length, jobs, 'a stopped pod takes no job');
  const published = await lab.published();
  assert.deepEqual(
    published.map(([type]) => type),
    ['created', 'started', 'stopped'],
  );
});

test('a stop that fails leaves the pod as it is, to be stopped again', async () => {
  using lab = openJobLab();
  const row = await lab.launch();
  lab.hooks.set('network.del', failure);
  await assert.rejects(lab.pods.stop(row.id, {}), /network/);
  assert.equal(row.state, 'ready');
  lab.hooks.delete('network.del');
  await lab.pods.stop(row.id, {});
  assert.equal(row.state, 'stopped');
  lab.jobs.assertClosed();
});

test('a removal stops a running pod first, as a job of its own inside the removal', async () => {
  using lab = openJobLab();
  const row = await lab.launch();
  await lab.add(row);
  await lab.pods.remove(row.id, {});
  assert.equal(lab.ctx.store.sandboxes.size, 0);
  assert.equal(lab.ctx.store.containers.size, 0);
  assert.equal(lab.ctx.sandboxNames.owner(row.name), undefined);
  const names = lab.jobs.jobs.map(({ start }) => start.job);
  assert.deepEqual(names.slice(-4), ['RemovePodSandbox', 'StopPodSandbox', 'StopContainer', 'RemoveContainer']);
  assert.equal((await lab.published()).at(-1)?.[0], 'deleted');
  lab.jobs.assertClosed();
});

test('a removal that fails half-way can be tried again, and publishes the end once', async () => {
  using lab = openJobLab();
  const row = await lab.launch();
  await lab.pods.stop(row.id, {});
  lab.hooks.set('images.removeSnapshot', failure);
  await assert.rejects(lab.pods.remove(row.id, {}), /rootfs/);
  assert.equal(row.state, 'removing');
  lab.hooks.delete('images.removeSnapshot');
  await lab.pods.remove(row.id, {});
  assert.equal(lab.ctx.store.sandboxes.size, 0);
  const deleted = (await lab.published()).filter(([type]) => type === 'deleted');
  assert.equal(deleted.length, 1);
});

test('stopping and removing what does not exist is fine', async () => {
  using lab = openJobLab();
  await lab.pods.stop('nobody', {});
  await lab.pods.remove('nobody', {});
  assert.deepEqual(lab.jobs.jobs, []);
});

test('a launch whose callers are gone goes on, waits for the retry, and is removed when nobody comes', async () => {
  using lab = openJobLab({ claimTtlMs: 20 });
  const gate = Promise.withResolvers<void>();
  lab.hooks.set('network.add', () => gate.promise);
  const caller = new AbortController();
  const call = lab.pods.run(lab.podRequest(), { left: caller.signal });
  await eventually(() => lab.calls.includes('network.add'));
  caller.abort('deadline');
  await assert.rejects(call, (error) => codeOf(error) === 'DEADLINE_PASSED');
  gate.resolve();
  await eventually(() => [...lab.ctx.store.sandboxes.values()].some(({ state }) => state === 'ready'));
  await eventually(() => lab.ctx.store.sandboxes.size === 0);
  assert.ok(lab.lines.some(({ message }) => /claim_ttl/.test(message)));
  lab.jobs.assertClosed();
});

test('a shim that cannot be started without its start command is started with it', async () => {
  using lab = openJobLab();
  const { directStarts } = lab.ctx.shims;
  const { shim } = lab.ctx.config.runtimes.runc ?? assert.fail('no runtime');
  directStarts.commandSucceeded(shim, { key: 'key', version: 3 });
  const asked: boolean[] = [];
  lab.hooks.set('shim.startShim', (input) => {
    const direct = (input as { direct?: object }).direct !== undefined;
    asked.push(direct);
    if (direct) throw new SluiceError('SHIM_FAILED', 'no answer');
  });
  assert.equal((await lab.launch()).state, 'ready');
  assert.deepEqual(asked, [true, false]);
  assert.equal(directStarts.eligible(shim), undefined, 'and not tried again');
});

test('whoever uses the id of a launch without callers claims it: it is not removed', async () => {
  using lab = openJobLab({ claimTtlMs: 15 });
  const caller = new AbortController();
  const gate = Promise.withResolvers<void>();
  lab.hooks.set('network.add', () => gate.promise);
  const call = lab.pods.run(lab.podRequest(), { left: caller.signal });
  await eventually(() => lab.calls.includes('network.add'));
  caller.abort('deadline');
  await assert.rejects(call);
  gate.resolve();
  await eventually(() => lab.ctx.unclaimed.size === 1);
  const [id = ''] = lab.ctx.unclaimed;
  getSandbox(id, lab.ctx);
  await new Promise((resolve) => setTimeout(resolve, 30));
  assert.equal(lab.ctx.store.sandboxes.get(id)?.state, 'ready');
});

test('a pod whose processes have ended is not ready, although its network cannot be released yet', async () => {
  using lab = openJobLab();
  const row = await lab.launch();
  lab.hooks.set('network.del', async () => {
    await eventually(() => row.shimEnded === true);
    throw failure;
  });
  await assert.rejects(lab.pods.stop(row.id, {}), /network/);
  assert.equal(row.state, 'notready');
  lab.hooks.delete('network.del');
  await lab.pods.stop(row.id, {});
  assert.equal(row.state, 'stopped');
});

test('a pinned pod has no process: its shim starts with its first container, once', async () => {
  using lab = openJobLab();
  const row = await lab.launch(podWith({ namespaceOptions: namespaces({ pid: NamespaceMode.CONTAINER }) }));
  assert.equal(row.state, 'ready');
  assert.deepEqual([row.pid, row.shim], [0, undefined]);
  assert.ok(!lab.calls.includes('task.create') && !lab.calls.includes('shim.startShim'));
  await lab.add(row, { metadata: { name: 'first', attempt: 0 } });
  await lab.add(row, { metadata: { name: 'second', attempt: 0 } });
  assert.equal(lab.calls.filter((call) => call === 'shim.startShim').length, 1);
  await lab.pods.remove(row.id, {});
  assert.equal(lab.ctx.store.sandboxes.size, 0);
  assert.equal(lab.shims.size, 0);
  lab.jobs.assertClosed();
});
