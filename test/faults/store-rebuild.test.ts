/** A store that is broken when the daemon starts, with pods and containers that go on. */
import assert from 'node:assert/strict';
import { closeSync, openSync, readdirSync, rmSync, statSync, truncateSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { ContainerState, PodSandboxState } from '../../proto/gen/cri.ts';
import {
  BUSYBOX,
  type ContainerLab,
  exited,
  openContainerLab,
  SKIP,
  sh,
  statusOf,
} from '../integration/container-lab.ts';
import { run, waitFor } from '../rig/proc.ts';

const DAMAGE: Record<string, (path: string) => void> = {
  garbled: (path) => {
    for (const file of [path, `${path}-wal`]) {
      const fd = openSync(file, 'r+');
      for (let at = 0; at < statSync(file).size; at += 8192) writeSync(fd, Buffer.alloc(4096, 0xa5), 0, 4096, at);
      closeSync(fd);
    }
  },
  'cut to nothing': (path) => {
    truncateSync(path, 0);
    rmSync(`${path}-wal`, { force: true });
  },
  deleted: (path) => {
    for (const suffix of ['', '-wal', '-shm']) rmSync(path + suffix, { force: true });
  },
};

for (const sandboxMode of ['pause', 'pinned'] as const) {
  describe(`sandbox_mode ${sandboxMode}`, { skip: SKIP }, () => {
    let lab: ContainerLab;
    before(async () => {
      lab = await openContainerLab({ index: 25, sandboxMode });
    });
    after(async () => lab?.[Symbol.asyncDispose]());

    for (const [what, damage] of Object.entries(DAMAGE)) {
      test(`a store that is ${what}: pods and containers go on, with addresses, exit codes and logs`, async () => {
        const { cri, daemon } = lab;
        const pod = await lab.pod(`goes-on-${what.replaceAll(' ', '-')}`);
        const writes = 'i=0; while :; do i=$((i+1)); echo line $i; sleep 0.2; done';
        const running = await pod.run('running', ['sh', '-c', writes]);
        const ended = await pod.run('ended', ['sh', '-c', 'exit 42']);
        const created = await pod.create('created', ['sleep', '3600']);
        await exited(cri, ended);
        const before = await cri.podSandboxStatus({ podSandboxId: pod.id });
        const ip = before.status?.network?.ip ?? '';
        const startedAt = (await statusOf(cri, running)).startedAt;

        const path = join(daemon.root, 'sluice.db');
        await new Promise((resolve) => setTimeout(resolve, 300)); // copies follow within 100 ms
        await daemon.stop('SIGKILL');
        damage(path);
        await daemon.start();

        const after = await cri.podSandboxStatus({ podSandboxId: pod.id });
        assert.equal(after.status?.state, PodSandboxState.SANDBOX_READY);
        assert.deepEqual(after.status?.network, before.status?.network);
        assert.deepEqual(after.status?.metadata, before.status?.metadata);
        await run('ping', ['-c', '1', '-W', '2', ip]);
        const status = await statusOf(cri, running);
        assert.equal(status.state, ContainerState.CONTAINER_RUNNING);
        assert.equal(status.startedAt, startedAt);
        assert.equal(await sh(cri, running, 'echo inside'), 'inside');
        assert.equal((await statusOf(cri, ended)).exitCode, 42);
        assert.equal((await statusOf(cri, created)).state, ContainerState.CONTAINER_CREATED);
        await cri.startContainer({ containerId: created });
        const lines = pod.log('running').trimEnd().split('\n').length;
        await waitFor('the log to go on', 5000, () => pod.log('running').split('\n').length > lines + 2 || undefined);
        assert.ok(
          (await cri.listImages({ filter: undefined })).images.some(({ repoTags }) => repoTags.includes(BUSYBOX)),
        );
        await waitFor(
          'the daemon to tell of the lost store',
          5000,
          () => /the store was lost and has been rebuilt from the copies of its rows/.test(daemon.log()) || undefined,
        );
        const aside = readdirSync(daemon.root).filter((name) => name.startsWith('sluice.db.broken-'));
        assert.equal(aside.length > 0, what === 'garbled');
        for (const name of aside) {
          assert.ok(daemon.log().includes(name), 'the log has the path');
          rmSync(join(daemon.root, name));
        }

        await pod[Symbol.asyncDispose]();
        await daemon.stop();
        await daemon.start();
        assert.deepEqual((await cri.listPodSandbox({ filter: undefined })).items, []);
        await daemon.assertNothingLeft();
      });
    }

    test('without any copy: the pod goes on, its network and layers are left alone', async () => {
      const { cri, daemon } = lab;
      const pod = await lab.pod('unknown');
      const container = await pod.run('runs', ['sh', '-c', 'while :; do cat /bin/busybox >/dev/null; sleep 0.1; done']);
      const { status } = await cri.podSandboxStatus({ podSandboxId: pod.id });
      await daemon.stop('SIGKILL');
      const kept = join(lab.folder, 'kept');
      await run('mkdir', [kept]);
      await run('sh', [
        '-c',
        `mv ${daemon.root}/sluice.db* ${kept}; mv ${daemon.root}/rows ${kept}/of-root; mv ${daemon.state}/rows ${kept}/of-state`,
      ]);
      await daemon.start();
      assert.deepEqual((await cri.listPodSandbox({ filter: undefined })).items, []);
      // The log reaches its file up to 250 ms late.
      await waitFor(
        'the daemon to tell of what is in no record',
        5000,
        () => /these pods or containers are in no record/.test(daemon.log()) || undefined,
      );
      await new Promise((resolve) => setTimeout(resolve, 1000)); // sweeps would have begun
      await run('ping', ['-c', '1', '-W', '2', status?.network?.ip ?? '']);

      // With its records back it is a pod as before, and its image is whole.
      await daemon.stop();
      await run('sh', [
        '-c',
        `rm -r ${daemon.root}/sluice.db* ${daemon.root}/rows ${daemon.state}/rows; mv ${kept}/sluice.db* ${daemon.root}`,
      ]);
      await daemon.start();
      assert.equal((await statusOf(cri, container)).state, ContainerState.CONTAINER_RUNNING);
      assert.equal(await sh(cri, container, 'ls /bin/busybox'), '/bin/busybox');
      await pod[Symbol.asyncDispose]();
      await daemon.assertNothingLeft();
    });
  });
}
