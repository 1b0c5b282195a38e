import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { unpinNamespace } from '../../src/sys/netns.ts';
import { run, waitFor } from '../rig/proc.ts';
import { type Lab, openLab, pausePid, SKIP } from './lab.ts';

const skip = SKIP;
const READY = 0;

async function statusOf(lab: Lab, id: string) {
  const { status } = await lab.daemon.cri.podSandboxStatus({ podSandboxId: id });
  return status;
}

for (const sandboxMode of ['pause', 'pinned'] as const) {
  describe(`sandbox_mode ${sandboxMode}`, { skip }, () => {
    let lab: Lab;
    before(async () => {
      lab = await openLab({ index: 14, sandboxMode });
    });
    after(async () => lab?.[Symbol.asyncDispose]());

    for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
      test(`pods outlive a daemon that ends by ${signal}, and are found again`, async () => {
        const ids = await Promise.all(['a', 'b', 'c'].map((name) => lab.launch(name)));
        const before = await Promise.all(ids.map((id) => statusOf(lab, id)));
        const how = await lab.daemon.stop(signal);
        assert.equal(how, signal === 'SIGTERM' ? 0 : 'SIGKILL');
        for (const pod of before) await run('ping', ['-c', '1', '-W', '2', pod?.network?.ip ?? '']);
        await lab.daemon.start();
        const again = await Promise.all(ids.map((id) => statusOf(lab, id)));
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

    test('removals that kill -9 interrupts are finished by the next start, or by the retry', async () => {
      const ids = await Promise.all(Array.from({ length: 6 }, (_, i) => lab.launch(`gone-${i}`)));
      const removals = ids.map((id) => lab.stopAndRemove(id).catch(() => undefined));
      await sleep(40);
      await lab.daemon.stop('SIGKILL');
      await Promise.all(removals);
      await lab.daemon.start();
      for (const id of ids) await lab.stopAndRemove(id);
      await lab.assertSound(15_000);
    });

    if (sandboxMode === 'pause') {
      test('a pod whose processes died while the daemon was down is found not ready', async () => {
        const id = await lab.launch('lost');
        const { info } = await lab.daemon.cri.podSandboxStatus({ podSandboxId: id, verbose: true });
        await lab.daemon.stop();
        process.kill(pausePid(info), 'SIGKILL');
        await sleep(300);
        await lab.daemon.start();
        await waitFor('it to be not ready', 5000, async () => (await statusOf(lab, id))?.state !== READY || undefined);
        await lab.stopAndRemove(id);
        await lab.assertSound();
      });
    } else {
      test('a pod whose namespaces went while the daemon was down, as by a reboot, is found not ready', async () => {
        // On the host network, since no reboot takes the plugins' rules along here.
        const id = await lab.launch('lost', { host: { network: true } });
        const { info } = await lab.daemon.cri.podSandboxStatus({ podSandboxId: id, verbose: true });
        const { runtimeSpec } = JSON.parse(info.info ?? '{}') as {
          runtimeSpec: { linux: { namespaces: { type: string; path: string }[] } };
        };
        const paths = runtimeSpec.linux.namespaces.map(({ path }) => path);
        assert.equal(paths.length, 1, 'the IPC namespace');
        await lab.daemon.stop();
        for (const path of paths) unpinNamespace(path);
        await lab.daemon.start();
        await waitFor('it to be not ready', 5000, async () => (await statusOf(lab, id))?.state !== READY || undefined);
        await lab.stopAndRemove(id);
        await lab.assertSound();
      });
    }
  });
}
