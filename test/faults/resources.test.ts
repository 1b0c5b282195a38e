/**
 * The machine runs out of descriptors or processes, or the network's configuration goes away, in the midst of launches.
 */
import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, renameSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { cgroupMounts } from '../../src/workers/stats/cgroups.ts';
import { podConfig } from '../rig/messages.ts';
import { ROOT } from '../rig/paths.ts';
import { run, waitFor } from '../rig/proc.ts';
import { type Lab, openLab, SKIP } from './lab.ts';

const skip = SKIP;
/** Launches at once while something is short. */
const LAUNCHES = 12;

let lab: Lab;
before(async () => {
  // A pause process makes every launch start a shim and a runtime.
  if (!skip) lab = await openLab({ index: 36, config: { runtimes: { runc: { sandbox_mode: 'pause' } } } });
});
after(async () => lab?.[Symbol.asyncDispose]());

interface Ends {
  ids: string[];
  errors: string[];
}

async function launchMany(prefix: string, whileRunning: () => Promise<void> | void = () => {}): Promise<Ends> {
  const ends: Ends = { ids: [], errors: [] };
  const calls = Array.from({ length: LAUNCHES }, async (_, number) => {
    const config = podConfig(`${prefix}-${number}`, { cgroupParent: lab.daemon.cgroupParent });
    try {
      ends.ids.push((await lab.daemon.cri.runPodSandbox({ config }, { timeoutMs: 60_000 })).podSandboxId);
    } catch (error) {
      ends.errors.push((error as { details?: string }).details ?? String(error));
    }
  });
  await whileRunning();
  await Promise.all(calls);
  return ends;
}

/** The daemon is the one that was there, does its work again, and has nothing left of what failed. */
async function assertRecovered(pid: number, ids: string[]): Promise<void> {
  assert.equal(lab.daemon.pid(), pid);
  assert.doesNotMatch(lab.daemon.log(), /unhandled|uncaught/i);
  for (const id of ids) await lab.stopAndRemove(id);
  await lab.assertSound(30_000);
}

test('without descriptors launches fail and lists go on; with them again everything works', {
  skip,
  timeout: 120_000,
}, async () => {
  const { cri } = lab.daemon;
  const pid = lab.daemon.pid();
  const limits = /^Max open files\s+(\S+)\s+(\S+)/m.exec(readFileSync(`/proc/${pid}/limits`, 'utf8'));
  const [, soft = '', hard = ''] = limits ?? [];
  // The limit is on numbers, and those of closed descriptors are used again: four are left below it.
  const used = new Set(readdirSync(`/proc/${pid}/fd`).map(Number));
  let limit = 0;
  for (let free = 0; free < 4; limit++) if (!used.has(limit)) free++;
  await run('prlimit', ['--pid', String(pid), `--nofile=${limit}:${hard}`]);
  let ends: Ends;
  try {
    ends = await launchMany('emfile');
    await cri.listPodSandbox();
  } finally {
    await run('prlimit', ['--pid', String(pid), `--nofile=${soft}:${hard}`]);
  }
  await assertRecovered(pid, ends.ids);
  assert.ok(ends.errors.length > 0, 'the limit was too high to be felt');
});

test('without processes launches fail and lists go on; with them again everything works', {
  skip,
  timeout: 120_000,
}, async () => {
  const { cri } = lab.daemon;
  const pid = lab.daemon.pid();
  const { unified, v1 } = cgroupMounts();
  const { mountpoint = '' } = v1.pids ?? unified ?? {};
  const group = join(mountpoint, `sluice-eagain-${process.pid}`);
  const home = join(
    mountpoint,
    /^(?:\d+:pids|0:):(.*)$/m.exec(readFileSync(`/proc/${pid}/cgroup`, 'utf8'))?.[1] ?? '/',
  );
  mkdirSync(group);
  try {
    writeFileSync(join(group, 'cgroup.procs'), String(pid));
    const threads = readdirSync(`/proc/${pid}/task`).length;
    writeFileSync(join(group, 'pids.max'), String(threads + 3));
    const ends = await launchMany('eagain');
    await cri.listPodSandbox();
    writeFileSync(join(group, 'pids.max'), 'max');
    await assertRecovered(pid, ends.ids);
    assert.ok(ends.errors.length > 0, 'the limit was too high to be felt');
  } finally {
    writeFileSync(join(group, 'pids.max'), 'max');
    await waitFor('the cgroup to be empty', 5000, () => {
      for (const left of readFileSync(join(group, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean)) {
        writeFileSync(join(home, 'cgroup.procs'), left);
      }
      rmdirSync(group);
      return true;
    });
  }
});

test('the CNI folder is emptied in a storm: what runs is finished and removed, what comes is refused', {
  skip,
  timeout: 120_000,
}, async () => {
  const pid = lab.daemon.pid();
  const conf = join(lab.daemon.network.confDir, '10-rig.conflist');
  const away = join(lab.folder, 'away.conflist');
  const ends = await launchMany('empty', async () => {
    await sleep(50);
    renameSync(conf, away);
  });
  try {
    await waitFor('the network to be gone', 10_000, async () => {
      const { status } = await lab.daemon.cri.status();
      return status?.conditions.find(({ type }) => type === 'NetworkReady')?.status === false || undefined;
    });
    const refused = await launchMany('refused');
    assert.deepEqual(refused.ids, []);
    for (const error of refused.errors) assert.match(error, /network is not ready/);
    // DEL is called with what ADD was called with, whatever the folder has by now.
    for (const id of ends.ids) await lab.stopAndRemove(id);
    await lab.daemon.assertNothingLeft(10_000);
  } finally {
    renameSync(away, conf);
  }
  await waitFor('the network to be back', 10_000, async () => {
    const { status } = await lab.daemon.cri.status();
    return status?.conditions.every((one) => one.status) || undefined;
  });
  assert.ok(ends.ids.length > 0, ends.errors[0]);
  await assertRecovered(pid, []);
});

test('sluice status names the clean-ups that are pending, with their reasons', { skip, timeout: 60_000 }, async () => {
  const pid = lab.daemon.pid();
  lab.plugin.mode('refuses ADD and DEL');
  await lab.launchFails('stuck', { words: /the rig says no/ });
  const status = ['status', '--socket', lab.daemon.socket, '--metrics', lab.daemon.metrics];
  const { stdout } = await run(join(ROOT, 'bin/sluice'), status, { check: false });
  lab.plugin.mode('works');
  assert.match(stdout, /^clean-ups: +1 pending$/m);
  assert.match(stdout, /^ {2}pod rig\/stuck \([0-9a-f]{13}\), \d+ tries: .*the rig says no/m);
  await assertRecovered(pid, []);
});
