import assert from 'node:assert/strict';
import { pbkdf2 } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { launch, run } from '../../src/sys/spawn.ts';
import { reap } from '../../src/sys/wait.ts';

const sh = (script: string, more: { timeoutMs?: number; stdin?: Uint8Array; maxOutput?: number } = {}) =>
  run({ path: '/bin/sh', argv: ['sh', '-c', script], env: { PATH: '/usr/bin:/bin' }, timeoutMs: 10_000, ...more });

test('output, status, input and working folder', async () => {
  const done = await sh('cat; echo wrong >&2; exit 3', { stdin: Buffer.from('hello') });
  assert.equal(done.stdout.toString(), 'hello');
  assert.equal(done.stderr.toString(), 'wrong\n');
  assert.deepEqual([done.code, done.signal, done.timedOut], [3, null, false]);
});

test('a program gets only the given environment, default signal handlers and its own process group', async () => {
  const { stdout } = await sh('env | grep -v -E "^(PWD|_|SHLVL|OLDPWD)="; grep -E "^Sig(Blk|Ign)" /proc/self/status');
  assert.match(stdout.toString(), /^PATH=\/usr\/bin:\/bin\nSigBlk:\s0+\nSigIgn:\s0+\n$/);
});

test('a time limit kills the whole process group', async () => {
  const began = performance.now();
  const done = await sh('sleep 30 & sleep 30', { timeoutMs: 100 });
  assert.equal(done.timedOut, true);
  assert.equal(done.signal, 9);
  assert(performance.now() - began < 5000);
});

test('a program that prints more than maxOutput is killed', async () => {
  const done = await sh('yes', { maxOutput: 1000 });
  assert.equal(done.overflowed, true);
});

test('a child that outlives the program and keeps its pipes open does not delay the result', async () => {
  const began = performance.now();
  const done = await sh('sleep 5 & echo answer');
  assert.equal(done.stdout.toString(), 'answer\n');
  assert(performance.now() - began < 3000);
});

test('no output is lost when the event loop was busy while the program ran', async () => {
  const running = sh('sleep 5 & echo answer'); // the child keeps the pipe open, so only polling the pid shows the end
  await new Promise(setImmediate);
  const until = performance.now() + 400;
  while (performance.now() < until); // as on a node where dozens of processes compete for the processor
  assert.equal((await running).stdout.toString(), 'answer\n');
});

test('a program that does not exist is ENOENT', async () => {
  await assert.rejects(
    run({ path: '/no/such', argv: ['x'], env: {}, timeoutMs: 1000 }),
    /posix_spawn \/no\/such: no such file/,
  );
});

test('a process is collected by another thread than main', async () => {
  const { pid } = launch({ path: '/bin/true', argv: ['true'], env: {} });
  const state = () =>
    existsSync(`/proc/${pid}/stat`) ? /\) (.)/.exec(readFileSync(`/proc/${pid}/stat`, 'latin1'))?.[1] : '';
  while (state() !== 'Z') await sleep(5);
  // All threads of libuv's pool have something else to do.
  let busy = 4;
  for (let i = 0; i < 4; i++) pbkdf2('a', 'b', 300_000, 64, 'sha512', () => busy--);
  const collected = reap(pid);
  await sleep(20);
  assert.equal(state(), 'Z');
  assert.equal(busy, 4);
  assert.equal(await collected, true);
  assert.equal(state(), '');
  assert.equal(await reap(pid), true);
});

test('a process that runs is not collected', async () => {
  const { pid } = launch({ path: '/bin/sleep', argv: ['sleep', '60'], env: {} });
  assert.equal(await reap(pid), false);
  process.kill(pid, 'SIGKILL');
  while (!(await reap(pid))) await sleep(5);
});
