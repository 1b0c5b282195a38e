import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { run } from '../rig/proc.ts';
import { type Lab, openLab, SKIP } from './lab.ts';

let lab: Lab;
const skip = SKIP;
before(async () => {
  if (!skip) lab = await openLab({ index: 14 });
});
after(async () => lab?.[Symbol.asyncDispose]());

const READY = 0;

async function statusOf(id: string) {
  const { status } = await lab.daemon.cri.podSandboxStatus({ podSandboxId: id });
  return status;
}

for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
  test(`pods outlive a daemon that ends by ${signal}, and are found again`, { skip }, async () => {
    const ids = await Promise.all(['a', 'b', 'c'].map((name) => lab.launch(name)));
    const before = await Promise.all(ids.map(statusOf));
    const how = await lab.daemon.stop(signal);
    assert.equal(how, signal === 'SIGTERM' ? 0 : 'SIGKILL');
    for (const pod of before) await run('ping', ['-c', '1', '-W', '2', pod?.network?.ip ?? '']);
    await lab.daemon.start();
    const again = await Promise.all(ids.map(statusOf));
    for (const [i, pod] of again.entries()) {
      assert.equal(pod?.state, READY);
      assert.equal(pod?.network?.ip, before[i]?.network?.ip);
      assert.equal(pod?.createdAt, before[i]?.createdAt);
    }
    for (const id of ids) await lab.stopAndRemove(id);
    await lab.assertSound();
  });
}

test('launches that kill -9 interrupts at any moment are undone by the next start', {
  skip,
  timeout: 120_000,
}, async () => {
  for (const delay of [20, 60, 120, 250]) {
    const launches = Array.from({ length: 6 }, (_, i) => lab.launch(`cut-${i}`).catch(() => ''));
    await sleep(delay);
    await lab.daemon.stop('SIGKILL');
    await Promise.all(launches);
    await lab.daemon.start();
    const { items } = await lab.daemon.cri.listPodSandbox();
    for (const { id } of items) await lab.stopAndRemove(id);
    await lab.assertSound(15_000);
  }
});

test('removals that kill -9 interrupts are finished by the next start, or by the retry', { skip }, async () => {
  const ids = await Promise.all(Array.from({ length: 6 }, (_, i) => lab.launch(`gone-${i}`)));
  const removals = ids.map((id) => lab.stopAndRemove(id).catch(() => undefined));
  await sleep(40);
  await lab.daemon.stop('SIGKILL');
  await Promise.all(removals);
  await lab.daemon.start();
  for (const id of ids) await lab.stopAndRemove(id);
  await lab.assertSound(15_000);
});

test('a pod whose processes died while the daemon was down is found not ready', { skip }, async () => {
  const id = await lab.launch('lost');
  const { info } = await lab.daemon.cri.podSandboxStatus({ podSandboxId: id, verbose: true });
  await lab.daemon.stop();
  process.kill((JSON.parse(info.info ?? '{}') as { pid: number }).pid, 'SIGKILL');
  await sleep(300);
  await lab.daemon.start();
  assert.notEqual((await statusOf(id))?.state, READY);
  await lab.stopAndRemove(id);
  await lab.assertSound();
});
