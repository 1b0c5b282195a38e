import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { test } from 'node:test';
import { C } from '../../src/sys/libc.ts';
import { procStat } from '../../src/sys/proc-stat.ts';
import { whyNotRealtime } from '../../src/sys/realtime.ts';
import { startSluice } from '../rig/daemon.ts';
import { ROOT } from '../rig/paths.ts';
import { run, waitFor } from '../rig/proc.ts';

const { SCHED_OTHER: OTHER, SCHED_RR: RR } = C;

/** Scheduling policy and nice value of a process's main thread, or of another one. */
function policy(pid: number, tid = pid): { policy: number; nice: number } {
  const field = procStat(`/proc/${pid}/task/${tid}`);
  return { policy: Number(field(41)), nice: Number(field(19)) };
}

/** Why this machine gives no real-time priority, tried with a process that does nothing. */
async function refused(): Promise<string | undefined> {
  const program = `import { makeRealtime } from '${ROOT}/src/sys/realtime.ts'; console.log(makeRealtime(process.pid) ?? '');`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [said] = (await once(child.stdout, 'data')) as [Buffer];
  return said.toString().trim() || undefined;
}

const reason = whyNotRealtime() ?? (await refused());
const skip = reason !== undefined && `no real-time priority here: ${reason}`;

/** A main thread that spins for as long as it is told and then waits, with a guard in a thread of its own. */
const PROGRAM = `
import { Worker } from 'node:worker_threads';
import { setTimeout as sleep } from 'node:timers/promises';
import { makeRealtime } from '${ROOT}/src/sys/realtime.ts';
const guard = \`
import('${ROOT}/src/sys/realtime.ts').then(({ RealtimeGuard }) => {
  const guard = new RealtimeGuard(process.pid, () => {}, 0.5);
  setInterval(() => guard.look(), 100);
});
\`;
new Worker(guard, { eval: true });
await sleep(500);
const failed = makeRealtime(process.pid);
if (failed) throw new Error(failed);
for await (const line of process.stdin) for (const end = Date.now() + Number(line); Date.now() < end; );
process.exit(0);
`;

test('a real-time thread that runs without a pause is a normal one until it has one', {
  skip,
  timeout: 60_000,
}, async () => {
  const child = spawn(process.execPath, ['--input-type=module', '-e', PROGRAM], {
    stdio: ['pipe', 'inherit', 'inherit'],
  });
  const ended = once(child, 'exit');
  const { pid = 0 } = child;
  try {
    await waitFor('the thread to be raised', 20_000, () => policy(pid).policy === RR || undefined);
    child.stdin.write('5000\n');
    await waitFor('the thread to be lowered', 4500, () => policy(pid).policy === OTHER || undefined);
    await waitFor('the thread to be raised again', 20_000, () => policy(pid).policy === RR || undefined);
  } finally {
    child.stdin.end();
    await ended;
  }
});

const COLLECTS = `
import { setTimeout as sleep } from 'node:timers/promises';
import { procStat } from '${ROOT}/src/sys/proc-stat.ts';
import { giveWayToSweepers, makeRealtime } from '${ROOT}/src/sys/realtime.ts';
const policy = () => Number(procStat('/proc/self/task/' + process.pid)(41));
const failed = makeRealtime(process.pid);
if (failed) throw new Error(failed);
await sleep(300);
const failures = [];
{
  using _ = giveWayToSweepers(process.pid, (reason) => failures.push(reason));
  const seen = [policy()];
  for (const kind of ['minor', 'major']) {
    gc({ type: kind });
    await sleep(5);
    seen.push(policy());
  }
  await sleep(500);
  console.log(JSON.stringify([...seen, policy(), failures]));
}
`;

test('a real-time thread gives way to V8’s sweepers after a full collection', { skip, timeout: 60_000 }, async () => {
  const args = ['--expose-gc', '--disable-warning=ExperimentalWarning', '--input-type=module', '-e', COLLECTS];
  const { stdout } = await run(process.execPath, args);
  assert.deepEqual(JSON.parse(stdout), [RR, RR, OTHER, RR, []]);
});

test('the daemon’s main thread is a real-time one, and nothing that it starts is', {
  skip,
  timeout: 60_000,
}, async () => {
  await using daemon = await startSluice({ index: 47 });
  const pid = daemon.pid();
  // It is a normal one for a moment after each full collection.
  await waitFor('main to be a real-time thread', 5000, () => policy(pid).policy === RR || undefined);
  assert.equal(policy(pid).nice, -20);
  const tids = readdirSync(`/proc/${pid}/task`).map(Number);
  assert.ok(tids.length > 5);
  const others = tids.filter((tid) => tid !== pid && policy(pid, tid).policy !== OTHER);
  assert.deepEqual(others, []);
});

test('pipeline.realtime = false leaves it a normal one', { timeout: 60_000 }, async () => {
  await using daemon = await startSluice({ index: 47, config: { pipeline: { realtime: false } } });
  assert.equal(policy(daemon.pid()).policy, OTHER);
});
