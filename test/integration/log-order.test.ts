/** The order of stdout and stderr in a log, through the real shim, which copies the streams side by side. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { serveEvents } from '../../src/node/shims/events.ts';
import { Shims } from '../../src/node/shims/shims.ts';
import type { TtrpcServer } from '../../src/node/shims/ttrpc-server.ts';
import { Stdio } from '../../src/node/streaming/stdio.ts';
import { Lab, shims as PROGRAMS, SKIP } from './shim-lab.ts';

const TIMES = 20;
const BUSYBOX = '/bin/busybox';

let lab: Lab;
let shims: Shims;
let server: TtrpcServer;
let stdio: Stdio;
before(async () => {
  if (SKIP) return;
  lab = new Lab();
  shims = new Shims({ onLost: () => {} });
  server = await serveEvents({ path: lab.events, onEvent: () => {}, onError: (error) => assert.ifError(error) });
  stdio = new Stdio({
    execDir: join(lab.dir, 'exec'),
    backend: {} as never,
    onEvent: (event) => assert.fail(JSON.stringify(event)),
    onWorkerDied: (error) => assert.fail(error),
  });
});
after(async () => {
  if (SKIP) return;
  await stdio[Symbol.asyncDispose]();
  shims[Symbol.dispose]();
  await server[Symbol.asyncDispose]();
  await lab.end();
});

/** Runs `script` in a container of its own and returns the words of its log in the order of the file. */
async function logOf(script: string): Promise<string> {
  const pod = lab.pod();
  const folder = join(lab.dir, 'io', pod.id.slice(0, 12));
  const fifos = { stdin: '', stdout: join(folder, 'stdout'), stderr: join(folder, 'stderr') };
  const logPath = join(lab.dir, 'logs', `${pod.id}.log`);
  const shim = await shims.connect(pod.id, await lab.start(pod, PROGRAMS[0] ?? '', ['sh', '-c', script]));
  await stdio.openIo({ id: pod.id, fifos, tty: false, logPath, maxLine: 16384, stdinOnce: false });
  await shim.task.create(lab.create(pod, 'runc', fifos));
  await shim.task.start(pod.id);
  const { exitStatus } = await shim.task.wait(pod.id);
  assert.equal(exitStatus, 0);
  await stdio.drain(pod.id);
  await stdio.removeIo({ id: pod.id, fifos });
  await shim.task.delete(pod.id);
  await shims.shutdown(shim);
  await lab.remove(pod);
  const lines = readFileSync(logPath, 'utf8').trim().split('\n');
  return lines.map((line) => line.split(' ').at(-1)).join('');
}

async function logsOf(script: string): Promise<string[]> {
  const logs: string[] = [];
  for (let i = 0; i < TIMES; i++) logs.push(await logOf(script));
  return logs;
}

/**
 * Of {@link TIMES} logs, those that may be out of order: on a machine with ten times as many busy processes as cores
 * the shim itself is interrupted for milliseconds between the two streams.
 */
const MAY_BE_LATE = 2;

for (const [what, script, allowed] of [
  ['a millisecond apart', `for i in 1 2 3; do echo $i; ${BUSYBOX} usleep 1000; done; echo 4 >&2`, MAY_BE_LATE],
  // Go's scheduler wakes the shim's copying goroutines last first: without the hold most of these have the error first.
  ['at once', `${BUSYBOX} sleep 0.1; echo 1; echo 2; echo 3; echo 4 >&2`, TIMES / 2],
] as const) {
  test(`three lines to stdout and one to stderr, ${what}`, { skip: SKIP }, async (t) => {
    const logs = await logsOf(script);
    for (const log of logs) assert.equal([...log].sort().join(''), '1234', 'every line, once');
    const wrong = logs.filter((log) => log !== '1234');
    t.diagnostic(`${wrong.length} of ${TIMES} are out of order ${wrong.join(' ')}`);
    assert.ok(wrong.length <= allowed, `${wrong.length} of ${TIMES} are out of order: ${wrong.join(' ')}`);
  });
}
