import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { closeSync, constants, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { type TestContext, test } from 'node:test';
import { Stdio } from '../../src/node/streaming/stdio.ts';
import type { IoRegistration } from '../../src/workers/stdio/protocol.ts';

const STDIO = new URL('../../src/node/streaming/stdio.ts', import.meta.url).href;

/** A process in the place of the daemon: it opens the IO of containers, one after the other, and says so. */
const PROGRAM = (execDir: string, all: IoRegistration[]) => `
import { Stdio } from ${JSON.stringify(STDIO)};
const stdio = new Stdio({ execDir: ${JSON.stringify(execDir)}, backend: {}, onEvent: console.error, onWorkerDied: console.error });
for (const io of ${JSON.stringify(all)}) await stdio.openIo(io);
console.log('open');
`;

/** Starts {@link PROGRAM} for `count` containers and resolves once their IO is open. */
async function rig(t: TestContext, count: number) {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-killed-'));
  const execDir = join(folder, 'exec');
  const all = Array.from({ length: count }, (_, i): IoRegistration => {
    const fifo = (name: string) => join(folder, `c${i}`, name);
    const logPath = join(folder, `${i}.log`);
    const fifos = { stdin: '', stdout: fifo('stdout'), stderr: fifo('stderr') };
    return { id: `c${i}`, fifos, tty: false, logPath, maxLine: 16384, stdinOnce: false };
  });
  const file = join(folder, 'program.mjs');
  writeFileSync(file, PROGRAM(execDir, all));
  const child = spawn(process.execPath, [file], { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => {
    child.kill('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  });
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  assert.equal((await lines.next()).value, 'open');
  const kill = () => new Promise((resolve) => child.on('exit', resolve).kill('SIGKILL'));
  return { all, execDir, kill };
}

for (const count of [1, 3, 100]) {
  test(`the daemon is killed as soon as the IO of ${count} containers is open: their last lines are in the log`, async (t) => {
    const { all, execDir, kill } = await rig(t, count);
    // As the shim does: a write end, and a read end that lasts as long as the container.
    const shims = all.map(({ fifos }) => ({
      write: openSync(fifos.stdout, constants.O_WRONLY | constants.O_NONBLOCK),
      read: openSync(fifos.stdout, constants.O_RDONLY | constants.O_NONBLOCK),
    }));
    await kill();
    for (const { write, read } of shims) {
      writeSync(write, 'last words\n');
      closeSync(write);
      closeSync(read);
    }
    const next = new Stdio({
      execDir,
      backend: {} as never,
      onEvent: (event) => assert.fail(JSON.stringify(event)),
      onWorkerDied: (error) => assert.fail(error),
    });
    await using _next = next;
    for (const io of all) {
      await next.openIo(io);
      await next.drain(io.id, { quietMs: 20 });
      assert.match(readFileSync(io.logPath, 'utf8'), /stdout F last words\n$/);
      await next.removeIo(io);
    }
  });
}
