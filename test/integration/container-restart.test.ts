/** What containers do while the daemon is away, or their shim dies: nothing is lost, nothing stays behind. */
import assert from 'node:assert/strict';
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ContainerState } from '../../proto/gen/cri.ts';
import { namesIn } from '../../src/sys/folder.ts';
import { mount } from '../rig/messages.ts';
import { processesOf, waitFor } from '../rig/proc.ts';
import {
  type ContainerLab,
  exited,
  isAlive,
  openContainerLab,
  pidOf,
  SKIP,
  SLEEP,
  sh,
  statusOf,
} from './container-lab.ts';

describe('containers and a daemon that ends', { skip: SKIP }, () => {
  let lab: ContainerLab;
  before(async () => {
    lab = await openContainerLab({ index: 42 });
  });
  after(() => lab?.[Symbol.asyncDispose]());

  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    test(`${signal}: exits and log bytes of meanwhile are there afterwards`, async () => {
      const { cri, daemon } = lab;
      const name = signal.toLowerCase();
      await using pod = await lab.pod(name);
      const go = join(lab.folder, `go-${name}`);
      writeFileSync(go, '');
      const mounts = [mount({ containerPath: '/go', hostPath: go })];
      const onGo = (line: string) => ['sh', '-c', `until [ -s /go ]; do sleep 0.05; done; ${line}`];
      const lines = 'i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo line $i; done';
      const fails = await pod.run('fails', onGo('echo last words; exit 43'), { mounts });
      const killed = await pod.run('killed', SLEEP);
      const counts = await pod.run('counts', ['sh', '-c', `echo begin; ${onGo(lines)[2]}; exec sleep 3600`], {
        mounts,
      });
      const created = await pod.create('created', ['sh', '-c', 'echo late; exit 3']);
      const ended = await pod.run('ended', ['sh', '-c', 'exit 9']);
      const before = await exited(cri, ended);
      const pid = await pidOf(cri, counts);
      const ending = [await pidOf(cri, fails), await pidOf(cri, killed)] as const;

      // A killed daemon has no last moment: who keeps the output for the next one is brought up to date twice a second.
      if (signal === 'SIGKILL') await sleep(1000);
      await daemon.stop(signal);
      process.kill(ending[1], 'SIGKILL');
      writeFileSync(go, 'go');
      await waitFor('two containers to end', 10_000, () => !ending.some(isAlive) || undefined);
      await daemon.start();

      const failed = await exited(cri, fails);
      assert.deepEqual([failed.exitCode, failed.reason], [43, 'Error']);
      assert.ok(failed.finishedAt > failed.startedAt && failed.startedAt >= failed.createdAt);
      assert.match(pod.log('fails'), / stdout F last words\n$/);
      const shot = await exited(cri, killed);
      assert.deepEqual([shot.exitCode, shot.reason], [137, 'Error']);
      assert.deepEqual(await statusOf(cri, ended), before);

      assert.equal((await statusOf(cri, counts)).state, ContainerState.CONTAINER_RUNNING);
      assert.equal(await pidOf(cri, counts), pid);
      await waitFor('the log to be whole', 10_000, () => pod.log('counts').includes(' line 2000\n') || undefined);
      const words = pod
        .log('counts')
        .split('\n')
        .map((line) => line.split(' ').slice(3).join(' '));
      assert.deepEqual(words, ['begin', ...Array.from({ length: 2000 }, (_, i) => `line ${i + 1}`), '']);
      assert.equal(await sh(cri, counts, 'echo still here'), 'still here');
      await cri.stopContainer({ containerId: counts, timeout: 0n });
      assert.equal((await statusOf(cri, counts)).exitCode, 137);

      await cri.startContainer({ containerId: created });
      assert.equal((await exited(cri, created)).exitCode, 3);
      assert.match(pod.log('created'), / stdout F late\n$/);
    });
  }

  test('a container whose shim is killed ends with it: nothing of it runs on, and everything can be removed', async () => {
    const { cri, daemon } = lab;
    await using pod = await lab.pod('shim');
    const one = await pod.run('one', SLEEP);
    const pid = await pidOf(cri, one);
    const shim = shimOf(daemon.folder, pod.id);
    process.kill(shim, 'SIGKILL');
    const status = await exited(cri, one);
    assert.deepEqual([status.exitCode, status.reason], [255, 'Unknown']);
    await waitFor('its process to be gone', 5000, () => !isAlive(pid) || undefined);
    await cri.stopContainer({ containerId: one, timeout: 10n });
    await cri.removeContainer({ containerId: one });
  });

  test('the shim dies while no daemon watches', async () => {
    const { cri, daemon } = lab;
    await using pod = await lab.pod('away');
    const one = await pod.run('one', SLEEP);
    const pid = await pidOf(cri, one);
    const shim = shimOf(daemon.folder, pod.id);
    await daemon.stop('SIGKILL');
    process.kill(shim, 'SIGKILL');
    await daemon.start();
    assert.equal((await exited(cri, one)).exitCode, 255);
    await waitFor('its process to be gone', 5000, () => !isAlive(pid) || undefined);
  });

  test('nothing is left of them', async () => {
    const { daemon } = lab;
    await daemon.assertNothingLeft();
    await daemon.stop();
    assert.deepEqual(processesOf(daemon.folder), []);
    await daemon.start();
    for (const dir of ['containers', 'bundles', 'execs'])
      assert.deepEqual(readdirSync(join(lab.daemon.state, dir)), []);
    for (const dir of ['containers', 'snapshots']) assert.deepEqual(await namesIn(join(lab.daemon.root, dir)), []);
  });
});

function shimOf(folder: string, pod: string): number {
  const found = processesOf(folder).find(({ command }) => command.includes('shim-runc-v2') && command.includes(pod));
  assert.ok(found, 'the pod has no shim');
  return found.pid;
}
