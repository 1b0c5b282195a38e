/** What src/workers/cgroup.ts does to the processes in a container's cgroups, in cgroups of the test's own. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { removeCgroups, signalContainer } from '../../src/workers/cgroup.ts';
import { cgroupMounts } from '../../src/workers/stats/cgroups.ts';
import { skipUnlessRoot } from '../rig/needs.ts';

const skip = skipUnlessRoot();
const SIGTERM = 15;
const SIGKILL = 9;

/** A container's cgroups, all that this machine has for it, with a cgroup below each. */
function makeCgroups() {
  const cgroupsPath = `/sluicerig-cgroup-${process.pid}`;
  const { v1, unified } = cgroupMounts();
  const folders = [v1.pids, unified].flatMap((found) => (found ? join(found.mountpoint, cgroupsPath) : []));
  for (const folder of folders) mkdirSync(join(folder, 'below'), { recursive: true });
  const stack = new AsyncDisposableStack();
  stack.defer(() => removeCgroups({ cgroupsPath }));
  return { cgroupsPath, folders, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

/** A process in these cgroups; `ended` resolves with the signal that ended it. */
function sleeper(folders: readonly string[]) {
  const child = spawn('sleep', ['3600'], { stdio: 'ignore' });
  const pid = child.pid ?? 0;
  for (const folder of folders) writeFileSync(join(folder, 'cgroup.procs'), String(pid));
  return {
    pid,
    [Symbol.dispose]: () => void child.kill('SIGKILL'),
    ended: new Promise<string | null>((resolve) => child.once('exit', (_, signal) => resolve(signal))),
  };
}

test('a signal goes to the first process alone, and to nobody where it is not in the cgroups', {
  skip,
  timeout: 20_000,
}, async () => {
  await using cgroups = makeCgroups();
  const { cgroupsPath, folders } = cgroups;
  using first = sleeper(folders);
  using other = sleeper(folders);
  using outside = sleeper([]);
  assert.equal(await signalContainer({ cgroupsPath, pid: outside.pid, signal: SIGTERM }), false);
  assert.equal(await signalContainer({ cgroupsPath, pid: 0, signal: SIGTERM }), false);
  assert.equal(await signalContainer({ cgroupsPath, pid: first.pid, signal: SIGTERM }), true);
  assert.equal(await first.ended, 'SIGTERM');
  assert.equal(await signalContainer({ cgroupsPath, pid: first.pid, signal: SIGTERM }), false, 'it has ended');
  for (const { pid } of [other, outside]) process.kill(pid, 'SIGUSR1'); // both still live, and end of this
  assert.deepEqual([await other.ended, await outside.ended], ['SIGUSR1', 'SIGUSR1']);
});

test('SIGKILL goes to all, also below, and whatever the first process is', { skip, timeout: 20_000 }, async () => {
  await using cgroups = makeCgroups();
  const { cgroupsPath, folders } = cgroups;
  using one = sleeper(folders);
  using below = sleeper(folders.map((folder) => join(folder, 'below')));
  using outside = sleeper([]);
  assert.equal(await signalContainer({ cgroupsPath, pid: outside.pid, signal: SIGKILL }), true);
  assert.deepEqual([await one.ended, await below.ended], ['SIGKILL', 'SIGKILL']);
  assert.equal(await signalContainer({ cgroupsPath, pid: one.pid, signal: SIGKILL }), false, 'nobody is left');
  process.kill(outside.pid, 'SIGUSR1');
  assert.equal(await outside.ended, 'SIGUSR1');
});

test('SIGKILL goes to what comes while there is something left, too', { skip, timeout: 20_000 }, async () => {
  await using cgroups = makeCgroups();
  const { cgroupsPath, folders } = cgroups;
  using first = sleeper(folders);
  const killed = signalContainer({ cgroupsPath, pid: first.pid, signal: SIGKILL }); // once before it returns
  using forked = sleeper(folders);
  assert.equal(await killed, true);
  assert.deepEqual([await first.ended, await forked.ended], ['SIGKILL', 'SIGKILL']);
});

test('cgroups are removed with the processes in them and below them', { skip, timeout: 20_000 }, async () => {
  await using cgroups = makeCgroups();
  const { cgroupsPath, folders } = cgroups;
  using below = sleeper(folders.map((folder) => join(folder, 'below')));
  await removeCgroups({ cgroupsPath });
  assert.equal(await below.ended, 'SIGKILL');
  assert.deepEqual(folders.filter(existsSync), []);
  assert.equal(await signalContainer({ cgroupsPath, pid: below.pid, signal: SIGKILL }), false, 'no cgroup, nobody');
});
