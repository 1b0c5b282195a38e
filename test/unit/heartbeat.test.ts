import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Heartbeat } from '../../src/node/streaming/heartbeat.ts';

/** A heartbeat on a clock of the test's own: 10 s between looks, 60 s to answer. */
function rig(t: TestContext) {
  t.mock.timers.enable({ apis: ['setInterval'] });
  const seen = { pings: 0, silent: 0 };
  let now = 0;
  const heartbeat = new Heartbeat({
    ping: () => seen.pings++,
    onSilent: () => seen.silent++,
    intervalMs: 10_000,
    limitMs: 60_000,
    now: () => now,
  });
  return {
    seen,
    heartbeat,
    /** Lets `ms` pass; the timer fires once at its end. */
    look(ms = 10_000) {
      now += ms;
      t.mock.timers.tick(10_000);
    },
  };
}

test('a worker that answers is left alone', (t) => {
  const { seen, heartbeat, look } = rig(t);
  for (let i = 0; i < 20; i++) {
    look();
    heartbeat.answered();
  }
  assert.deepEqual(seen, { pings: 20, silent: 0 });
});

test('a ping without an answer for the limit is the end, and is reported once', (t) => {
  const { seen, look } = rig(t);
  for (let i = 0; i < 6; i++) look();
  assert.deepEqual(seen, { pings: 1, silent: 0 }, 'the ping was sent 50 s ago');
  for (let i = 0; i < 5; i++) look();
  assert.deepEqual(seen, { pings: 1, silent: 1 });
});

test('after a pause of the whole process the worker gets a new ping and the whole time', (t) => {
  const { seen, heartbeat, look } = rig(t);
  look();
  look(63_000);
  assert.deepEqual(seen, { pings: 2, silent: 0 });
  heartbeat.answered();
  look();
  assert.deepEqual(seen, { pings: 3, silent: 0 });
});

test('a worker that hangs is found after a pause too', (t) => {
  const { seen, look } = rig(t);
  look();
  look(63_000);
  for (let i = 0; i < 6; i++) look();
  assert.deepEqual(seen, { pings: 2, silent: 1 });
});

/** A process with the real worker, an answer due within 300 ms, that prints the worker's deaths. */
const PROGRAM = (folder: string) => `
import { Stdio } from ${JSON.stringify(new URL('../../src/node/streaming/stdio.ts', import.meta.url).href)};
const stdio = new Stdio({
  execDir: ${JSON.stringify(join(folder, 'exec'))},
  backend: {},
  onEvent: () => {},
  onWorkerDied: (error) => console.log('died', error.cause?.message ?? error.message),
  heartbeat: { intervalMs: 500, limitMs: 4000 },
});
await stdio.ready;
console.log('ready');
process.stdin.on('data', async () => console.log('answer', JSON.stringify((await stdio.stats()).totals))).on('end', () => process.exit());
`;

test('SIGSTOP for twice the limit, then SIGCONT: the stdio worker goes on', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-heartbeat-'));
  const file = join(folder, 'program.mjs');
  writeFileSync(file, PROGRAM(folder));
  const child = spawn(process.execPath, [file], { stdio: ['pipe', 'pipe', 'inherit'] });
  t.after(() => {
    child.kill('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  });
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  assert.equal((await lines.next()).value, 'ready');
  await sleep(250);
  child.kill('SIGSTOP');
  await sleep(9000);
  child.kill('SIGCONT');
  await sleep(2000);
  child.stdin.write('?');
  assert.equal((await lines.next()).value, 'answer {"bytes":0,"entries":0}');
});
