import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { after, test } from 'node:test';
import { endAbandoned } from '../../src/workers/shim/abandoned.ts';

const started: ChildProcess[] = [];
after(() => {
  for (const child of started) child.kill('SIGKILL');
});

/** A process that lives for `seconds`, with these variables. */
async function sleeper(seconds: number, env: NodeJS.ProcessEnv): Promise<ChildProcess> {
  const child = spawn('/bin/sleep', [String(seconds)], { env, stdio: 'ignore' });
  started.push(child);
  await once(child, 'spawn');
  return child;
}

const ID = 'a'.repeat(64);
const plugin = (id: string) => ({ CNI_COMMAND: 'ADD', CNI_CONTAINERID: id });

test('a plugin that ends within the grace is waited for, one that does not is killed', async () => {
  const quick = await sleeper(2, plugin(ID)); // a busy machine takes its time for the look at all processes
  const slow = await sleeper(60, plugin(ID));
  const ends = Promise.all([once(quick, 'exit'), once(slow, 'exit')]);
  const { ended, killed } = await endAbandoned({ pods: [ID], graceMs: 4000 });
  assert.deepEqual(ended, ['/bin/sleep 2']);
  assert.deepEqual(killed, ['/bin/sleep 60']);
  const [[code], [, signal]] = await ends;
  assert.equal(code, 0);
  assert.equal(signal, 'SIGKILL');
});

test('programs of other pods, and of nobody, are left alone', async () => {
  const other = await sleeper(60, plugin('b'.repeat(64)));
  const none = await sleeper(60, { NOTE: `CNI_CONTAINERID=${ID}` });
  assert.deepEqual(await endAbandoned({ pods: [ID], graceMs: 0 }), { ended: [], killed: [] });
  for (const child of [other, none]) {
    assert.equal(child.exitCode, null);
    assert.equal(child.signalCode, null);
  }
});

test('the start command of a shim is ended, the long-lived shim is not', async () => {
  const run = (...args: string[]) => {
    const child = spawn('/bin/sh', ['-c', 'sleep 60 & wait', 'shim', ...args], { stdio: 'ignore', detached: true });
    started.push(child);
    return child;
  };
  const starting = run('-namespace', 'k8s.io', '-id', ID, 'start');
  const running = run('-namespace', 'k8s.io', '-id', ID);
  try {
    await Promise.all([once(starting, 'spawn'), once(running, 'spawn')]);
    const end = once(starting, 'exit');
    const { killed } = await endAbandoned({ pods: [ID], graceMs: 0 });
    assert.equal(killed.length, 1);
    await end;
    assert.equal(running.exitCode, null);
    assert.equal(running.signalCode, null);
  } finally {
    for (const { pid } of [starting, running]) if (pid) process.kill(-pid, 'SIGKILL');
  }
});
