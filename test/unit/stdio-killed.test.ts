import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  constants,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
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

/** Writes counted lines to stdout as fast as they are taken, each in two parts, and some lines to stderr. */
const COUNTING = `
i=1
while :; do
  printf 'line '; printf '%d of the container\\n' $i
  [ $((i % 7)) -ne 0 ] || echo "error $i" >&2
  i=$((i+1))
done`;

test('killed at any moment, again and again: every line is in the log once', { timeout: 120_000 }, async (t) => {
  const KILLS = 12;
  const folder = mkdtempSync(join(tmpdir(), 'sluice-killed-'));
  t.after(() => {
    // No daemon comes after the last one and ends what kept the output for it.
    const keepers = readFileSync(join(folder, 'keeper'), 'utf8').matchAll(/^\d+/gm);
    for (const [pid] of keepers) process.kill(Number(pid), 'SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  });
  const dir = join(folder, 'c');
  const fifos = { stdin: '', stdout: join(dir, 'stdout'), stderr: join(dir, 'stderr') };
  const logPath = join(folder, 'log');
  const io: IoRegistration = { id: 'c', fifos, tty: false, logPath, maxLine: 16384, stdinOnce: false };
  const file = join(folder, 'program.mjs');
  writeFileSync(file, PROGRAM(join(folder, 'exec'), [io]));
  let container: ChildProcess | undefined;
  t.after(() => container?.kill('SIGKILL'));
  let held: number[] = [];
  for (let kill = 0; kill <= KILLS; kill++) {
    const daemon = spawn(process.execPath, [file], { stdio: ['ignore', 'pipe', 'inherit'] });
    t.after(() => daemon.kill('SIGKILL'));
    await once(daemon.stdout, 'data');
    if (!container) {
      // As the shim does: read ends that last as long as the container.
      held = [fifos.stdout, fifos.stderr].map((path) => openSync(path, constants.O_RDWR));
      container = spawn('sh', ['-c', COUNTING], { stdio: ['ignore', ...held] });
    }
    await new Promise((resolve) => setTimeout(resolve, Math.random() * 60));
    if (kill === KILLS) break;
    await new Promise((resolve) => daemon.on('exit', resolve).kill('SIGKILL'));
  }
  await new Promise((resolve) => container?.on('exit', resolve).kill('SIGKILL'));
  for (const fd of held) closeSync(fd);
  let size = -1;
  while (size !== statSync(logPath).size) {
    size = statSync(logPath).size;
    await new Promise((resolve) => setTimeout(resolve, 1500)); // an unfinished line is written after a second
  }
  const lines = textOf(logPath, 'stdout');
  const wrong = lines.findIndex((text, at) => text !== `line ${at + 1} of the container`);
  assert.equal(wrong, -1, `line ${wrong + 1} is ${lines.slice(wrong - 1, wrong + 2).join(' / ')}`);
  assert.ok(lines.length > 1000, `${lines.length} lines`);
  const errors = Math.floor(lines.length / 7);
  assert.deepEqual(
    textOf(logPath, 'stderr').slice(0, errors - 1),
    Array.from({ length: errors - 1 }, (_, at) => `error ${(at + 1) * 7}`),
  );
  t.diagnostic(`${lines.length} lines in ${KILLS} lives`);
});

/** The text of each line of one stream, parts joined. */
function textOf(path: string, stream: string): string[] {
  const lines = [];
  let part = '';
  for (const line of readFileSync(path, 'utf8').split('\n')) {
    const [, from, tag, ...words] = line.split(' ');
    if (from !== stream) continue;
    part += words.join(' ');
    if (tag !== 'F') continue;
    lines.push(part);
    part = '';
  }
  return lines;
}
