import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { GRPC } from '../../src/errors.ts';
import { containerConfig, podConfig } from '../rig/messages.ts';
import { type Lab, openLab, SKIP } from './lab.ts';

let lab: Lab;
const skip = SKIP;
before(async () => {
  if (!skip) lab = await openLab({ index: 13, config: { pipeline: { max_running: 1, max_queued: 2 } } });
});
after(async () => lab?.[Symbol.asyncDispose]());

const request = (name: string) => ({
  config: podConfig(name, { cgroupParent: lab.daemon.cgroupParent }),
  runtimeHandler: '',
});

test('a full queue refuses at once and says how long it is', { skip }, async () => {
  lab.plugin.mode('takes a second');
  const began = performance.now();
  const calls = Array.from({ length: 6 }, async (_, i) => {
    try {
      return { id: (await lab.daemon.cri.runPodSandbox(request(`burst-${i}`))).podSandboxId };
    } catch (error) {
      return { error: error as Error & { code: number; details: string }, after: performance.now() - began };
    }
  });
  const ends = await Promise.all(calls);
  lab.plugin.mode('works');
  const refused = ends.filter((end) => end.error);
  assert.equal(refused.length, 3, 'one runs, two wait, three are refused');
  for (const { error, after: ms } of refused) {
    assert.equal(error?.code, GRPC.RESOURCE_EXHAUSTED);
    assert.match(error?.details ?? '', /2/);
    assert.ok((ms ?? 0) < 900, `refused after ${ms} ms, not at once`);
  }
  for (const { id } of ends) if (id) await lab.stopAndRemove(id);
  await lab.assertSound();
});

test('a queued call whose deadline passes is dropped before any work', { skip }, async () => {
  lab.plugin.mode('takes a second');
  const { cri } = lab.daemon;
  const first = cri.runPodSandbox(request('slow'));
  const late = cri.runPodSandbox(request('late'), { timeoutMs: 300 });
  await assert.rejects(late, { code: GRPC.DEADLINE_EXCEEDED });
  lab.plugin.mode('works');
  const { podSandboxId } = await first;
  const { items } = await cri.listPodSandbox();
  assert.deepEqual(
    items.map((pod) => pod.metadata?.name),
    ['slow'],
  );
  await lab.stopAndRemove(podSandboxId);
  await lab.assertSound();
});

test('a stop overtakes the launches that wait', { skip }, async () => {
  const { cri } = lab.daemon;
  const old = await lab.launch('old');
  lab.plugin.mode('takes a second');
  const order: string[] = [];
  const launches = ['a', 'b'].map((name) =>
    cri.runPodSandbox(request(name)).then(({ podSandboxId }) => {
      order.push(name);
      return podSandboxId;
    }),
  );
  await new Promise((resolve) => setTimeout(resolve, 200));
  await cri.stopPodSandbox({ podSandboxId: old });
  order.push('stop');
  const ids = await Promise.all(launches);
  lab.plugin.mode('works');
  assert.ok(order.indexOf('stop') < order.indexOf('b'), `the order was ${order.join(', ')}`);
  for (const id of [old, ...ids]) await lab.stopAndRemove(id);
  await lab.assertSound();
});

test('a caller that gives up: the launch in flight is handed to its retry', { skip }, async () => {
  const { cri } = lab.daemon;
  lab.plugin.mode('takes a second');
  await assert.rejects(cri.runPodSandbox(request('impatient'), { timeoutMs: 400 }), { code: GRPC.DEADLINE_EXCEEDED });
  const { podSandboxId } = await cri.runPodSandbox(request('impatient'));
  lab.plugin.mode('works');
  const { items } = await cri.listPodSandbox();
  assert.deepEqual(
    items.map((pod) => pod.id),
    [podSandboxId],
  );
  await lab.stopAndRemove(podSandboxId);
  await lab.assertSound();
});

test('a stop of a pod does not wait behind the creations in it that wait for a place', { skip }, async () => {
  const { cri } = lab.daemon;
  const podSandboxId = await lab.launch('busy');
  lab.plugin.mode('takes a second and a half');
  const order: string[] = [];
  const launch = cri.runPodSandbox(request('slow')).finally(() => order.push('launch'));
  await new Promise((resolve) => setTimeout(resolve, 200));
  const sandboxConfig = request('busy').config;
  const creations = ['one', 'two'].map((name) => {
    const config = containerConfig(name, 'docker.io/library/none:latest', ['true']);
    return assert.rejects(cri.createContainer({ podSandboxId, config, sandboxConfig }), {
      code: GRPC.FAILED_PRECONDITION,
      details: /not ready/,
    });
  });
  await new Promise((resolve) => setTimeout(resolve, 100));
  lab.plugin.mode('works');
  await cri.stopPodSandbox({ podSandboxId });
  order.push('stop');
  const { podSandboxId: slow } = await launch;
  assert.deepEqual(order, ['stop', 'launch']);
  await Promise.all(creations);
  for (const id of [podSandboxId, slow]) await lab.stopAndRemove(id);
  await lab.assertSound();
});
