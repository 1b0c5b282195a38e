/** Shims started without their `start` command: as children of the daemon, with a fall-back to the command. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, suite, test } from 'node:test';
import { serveEvents } from '../../src/node/shims/events.ts';
import { Shims } from '../../src/node/shims/shims.ts';
import type { TtrpcServer } from '../../src/node/shims/ttrpc-server.ts';
import { mayStartDirectly } from '../../src/workers/shim/direct.ts';
import { startSluice } from '../rig/daemon.ts';
import { podConfig } from '../rig/messages.ts';
import { Lab, type Pod, SKIP, shims as shimBinaries, until } from './shim-lab.ts';

const SIGKILL = 9;

let lab: Lab;
let shims: Shims;
let events: TtrpcServer;

/** The parameters of a direct start, from a pod that is started by the `start` command and stopped. */
async function learn(binary: string): Promise<{ key: string; version: 2 | 3 }> {
  const pod = lab.pod();
  const { key, child, ...row } = await lab.start(pod, binary);
  assert.equal(child, undefined, 'init has a shim that its start command has started');
  const shim = await shims.connect(pod.id, row);
  await shim.task.state(pod.id);
  const version = shim.task.version;
  await shims.shutdown(shim);
  await lab.remove(pod);
  return { key, version };
}

async function startDirectly(pod: Pod, binary: string) {
  const direct = await learn(binary);
  const started = await lab.start(pod, binary, ['sleep', '1000'], { direct });
  assert.ok(started.child);
  return { started, child: started.child, shim: await shims.connect(pod.id, started, { child: started.child }) };
}

/** True also for a zombie, so false means that the process has been reaped. */
const exists = (pid: number) => existsSync(`/proc/${pid}`);

for (const binary of shimBinaries) {
  suite(`${binary} without its start command`, { skip: SKIP }, () => {
    beforeEach(async () => {
      lab = new Lab();
      shims = new Shims({ onLost: () => {} });
      // An older shim that cannot deliver its events delays its exit.
      events = await serveEvents({ path: lab.events, onEvent: () => {}, onError: (error) => assert.ifError(error) });
    });
    afterEach(async () => {
      shims[Symbol.dispose]();
      await events[Symbol.asyncDispose]();
      await lab.end();
    });

    test('runs a pod from start to end, and leaves neither socket nor zombie', async () => {
      const pod = lab.pod();
      const { started, child, shim } = await startDirectly(pod, binary);
      assert.equal((await shim.task.state(pod.id))?.status, undefined);
      const own = Number(readFileSync('/proc/self/oom_score_adj', 'latin1'));
      assert.equal(Number(readFileSync(`/proc/${child}/oom_score_adj`, 'latin1')), Math.min(own + 1, 1000));
      const pid = await shim.task.create(lab.create(pod));
      assert.equal(await shim.task.start(pod.id), pid);
      assert.deepEqual(await shim.task.connect(pod.id), { shimPid: child, taskPid: pid });
      assert.equal(await shim.task.kill(pod.id, SIGKILL), true);
      assert.equal((await shim.task.wait(pod.id)).exitStatus, 128 + SIGKILL);
      assert.equal((await shim.task.delete(pod.id))?.exitStatus, 137);
      await shims.shutdown(shim);
      await until('the shim is collected', () => !exists(child));
      assert.ok(!existsSync(started.address));
      await lab.remove(pod);
    });

    test('removes its socket when it exits by itself', async () => {
      const pod = lab.pod();
      const { started, child } = await startDirectly(pod, binary);
      process.kill(child, 'SIGTERM'); // the shim exits by itself, so no code here removes the socket
      await until('the shim is collected', () => !exists(child));
      assert.ok(!existsSync(started.address));
      await lab.remove(pod);
    });

    test('is reaped when it is killed, and found dead', async () => {
      const pod = lab.pod();
      const { started, child } = await startDirectly(pod, binary);
      process.kill(child, 'SIGKILL');
      await until('the shim is collected', () => !exists(child));
      assert.deepEqual(await shims.reattach(pod.id, started), { state: 'dead' });
      await lab.cleanup(pod, binary, started.address);
      assert.ok(!existsSync(started.address));
      await lab.remove(pod);
    });

    test('a program that was replaced is started by its start command again', async () => {
      const { version } = await learn(binary);
      const pod = lab.pod();
      const started = await lab.start(pod, binary, ['true'], { direct: { key: 'another program', version } });
      assert.equal(started.child, undefined);
      await shims.shutdown(await shims.connect(pod.id, started));
      await lab.remove(pod);
    });

    test('a daemon falls back to the start command for a program that fails a direct start', async () => {
      const folder = join(lab.dir, 'program');
      mkdirSync(folder);
      const fake = join(folder, 'containerd-shim-runc-v2');
      const calls = join(folder, 'calls');
      const text = `#!/bin/sh
for word; do action=$word; done
case $action in
start) echo start >>${calls}; exec ${binary} "$@" ;;
delete) exec ${binary} "$@" ;;
*) echo direct >>${calls}; echo "only by my start command" >&2; exit 1 ;;
esac
`;
      writeFileSync(fake, text, { mode: 0o755 });
      const runtimes = { runc: { shim: fake, sandbox_mode: 'pause' } }; // without a pause process no pod has a shim of its own
      await using daemon = await startSluice({ index: 14, config: { runtimes } });
      for (const name of ['first', 'second', 'third']) {
        const config = podConfig(name, { cgroupParent: daemon.cgroupParent });
        const { podSandboxId } = await daemon.cri.runPodSandbox({ config });
        const { status } = await daemon.cri.podSandboxStatus({ podSandboxId });
        assert.equal(status?.state, 0);
      }
      // (For a shim before 2.3 the command runs twice the first time: with parameters, which it refuses, and without.)
      assert.match(readFileSync(calls, 'utf8'), /^(start\n){1,2}direct\nstart\nstart\n$/);
      await until('the log says so', () => /cannot be started without its start command/.test(daemon.log()));
      const { items } = await daemon.cri.listPodSandbox();
      for (const { id } of items) await daemon.cri.removePodSandbox({ podSandboxId: id });
      await daemon.assertNothingLeft();
    });
  });
}

test('only containerd-shim-runc-v2 is started directly, and not with core scheduling', () => {
  assert.equal(mayStartDirectly('/usr/bin/containerd-shim-runc-v2', {}), true);
  assert.equal(mayStartDirectly('containerd-shim-runc-v2', { SCHED_CORE: '' }), true);
  assert.equal(mayStartDirectly('containerd-shim-runc-v2', { SCHED_CORE: '1' }), false);
  for (const other of ['containerd-shim-kata-v2', 'containerd-shim-runsc-v1', '/opt/containerd-shim-runc-v2-wrapper']) {
    assert.equal(mayStartDirectly(other, {}), false);
  }
});
