import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import {
  closeSync,
  constants,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Stdio } from '../../src/node/streaming/stdio.ts';
import type { ExecBackend, IoRegistration, StdioEvent } from '../../src/workers/stdio/protocol.ts';

const folder = mkdtempSync(join(tmpdir(), 'sluice-stdio-'));
after(() => rmSync(folder, { recursive: true }));

const noBackend = new Proxy({} as ExecBackend, {
  get: () => () => Promise.reject(new Error('no exec in this test')),
});

function start(events: StdioEvent[] = [], deaths: Error[] = []) {
  return new Stdio({
    execDir: join(folder, 'exec'),
    backend: noBackend,
    onEvent: (event) => events.push(event),
    onWorkerDied: (error) => deaths.push(error),
  });
}

let made = 0;
function registration(change: Partial<IoRegistration> = {}): IoRegistration {
  const id = `c${++made}`;
  const dir = join(folder, id);
  return {
    id,
    fifos: { stdin: '', stdout: join(dir, 'stdout'), stderr: join(dir, 'stderr') },
    tty: false,
    logPath: join(folder, 'logs', id, '0.log'),
    maxLine: 16384,
    stdinOnce: false,
    ...change,
  };
}

/** As the shim does: keeps a write end and a spare read end open. */
function shim(path: string) {
  const write = openSync(path, constants.O_WRONLY | constants.O_NONBLOCK);
  const read = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  return {
    write: (text: string) => writeSync(write, text),
    [Symbol.dispose]() {
      closeSync(write);
      closeSync(read);
    },
  };
}

/** `stream tag content` of each line. */
const lines = (path: string) =>
  readFileSync(path, 'latin1')
    .split('\n')
    .slice(0, -1)
    .map((line) => line.slice(31));

async function until(what: string, check: () => boolean) {
  for (let waited = 0; !check(); waited += 5) {
    assert.ok(waited < 5000, `${what} within 5 s`);
    await sleep(5);
  }
}

test('a container’s output is in its log when drain resolves; the file is 0640', async () => {
  await using stdio = start();
  const io = registration();
  await stdio.openIo(io);
  await stdio.openIo(io);
  {
    using out = shim(io.fifos.stdout);
    using err = shim(io.fifos.stderr);
    out.write('hello\n');
    await until('the log line', () => existsSync(io.logPath) && lines(io.logPath).length === 1);
    err.write('oops\nno end');
  }
  assert.deepEqual(await stdio.drain(io.id), { complete: true });
  assert.deepEqual(lines(io.logPath), ['stdout F hello', 'stderr F oops', 'stderr P no end']);
  assert.equal(statSync(io.logPath).mode & 0o777, 0o640);
  const { containers } = await stdio.stats();
  assert.deepEqual(containers[io.id], { bytes: 17, entries: 3, split: 1, droppedBytes: 0, droppedEntries: 0 });
  await stdio.removeIo(io);
  await stdio.removeIo(io);
  assert.ok(!existsSync(io.fifos.stdout));
  assert.ok(!existsSync(join(folder, io.id)));
  await assert.rejects(stdio.reopenLog(io.id), { code: 'NOT_READY' });
});

test('a child that keeps the output open delays drain by the quiet time only', async () => {
  await using stdio = start();
  const io = registration();
  await stdio.openIo(io);
  using out = shim(io.fifos.stdout);
  using _err = shim(io.fifos.stderr);
  out.write('from the process\n');
  const began = performance.now();
  assert.deepEqual(await stdio.drain(io.id, { quietMs: 60 }), { complete: false });
  assert.ok(performance.now() - began < 2000);
  assert.deepEqual(lines(io.logPath), ['stdout F from the process']);
  const chatter = setInterval(() => out.write('.\n'), 10);
  assert.deepEqual(await stdio.drain(io.id, { quietMs: 500, maxMs: 150 }), { complete: false });
  clearInterval(chatter);
  await stdio.removeIo(io);
});

test('an unfinished line is written as a partial entry after a second', async () => {
  await using stdio = start();
  const io = registration();
  await stdio.openIo(io);
  using out = shim(io.fifos.stdout);
  out.write('login: ');
  await until('the piece', () => existsSync(io.logPath) && lines(io.logPath).length === 1);
  out.write('root\n');
  await until('the rest', () => lines(io.logPath).length === 2);
  assert.deepEqual(lines(io.logPath), ['stdout P login: ', 'stdout F root']);
  await stdio.removeIo(io);
});

test('reopenLog splits the log between the old and the new file without losing a line', async () => {
  await using stdio = start();
  const io = registration();
  await stdio.openIo(io);
  const writer = spawn('sh', [
    '-c',
    `exec 1>${io.fifos.stdout}; i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done`,
  ]);
  const files: string[] = [];
  const ended = new Promise((resolve) => writer.on('exit', resolve));
  for (let turn = 0; turn < 5; turn++) {
    await sleep(10);
    const old = `${io.logPath}.${turn}`;
    renameSync(io.logPath, old);
    files.push(old);
    await stdio.reopenLog(io.id);
  }
  files.push(io.logPath);
  await ended;
  await stdio.drain(io.id, { quietMs: 50 });
  const all = files.flatMap(lines);
  assert.equal(all.length, 20000);
  assert.ok(all.every((line, at) => line === `stdout F ${at}`));
  await stdio.removeIo(io);
});

test('without a log path the output is read and dropped', async () => {
  await using stdio = start();
  const io = registration({ logPath: '' });
  await stdio.openIo(io);
  const writer = spawn('sh', ['-c', `head -c 1000000 /dev/zero > ${io.fifos.stdout}`]);
  await new Promise((resolve) => writer.on('exit', resolve));
  await stdio.drain(io.id, { quietMs: 50 });
  assert.equal((await stdio.stats()).containers[io.id]?.bytes, 1_000_000);
  await stdio.removeIo(io);
});

test('a log that cannot be written is reported once, and the container continues', async () => {
  const events: StdioEvent[] = [];
  await using stdio = start(events);
  const io = registration({ logPath: '/dev/full' });
  await stdio.openIo(io);
  {
    using out = shim(io.fifos.stdout);
    for (let turn = 0; turn < 3; turn++) {
      out.write('lost\n');
      await sleep(20);
    }
  }
  await stdio.drain(io.id, { quietMs: 20 });
  assert.deepEqual(
    events.map(({ kind }) => kind),
    ['log-failed'],
  );
  assert.match(events[0]?.message ?? '', /ENOSPC/);
  const counted = (await stdio.stats()).containers[io.id];
  assert.equal(counted?.droppedEntries, 3);
  assert.ok((counted?.droppedBytes ?? 0) > 3 * 'lost\n'.length);
  await stdio.removeIo(io);
});

test('the IO of a container that still writes can be removed', async () => {
  const events: StdioEvent[] = [];
  await using stdio = start(events);
  for (let turn = 0; turn < 5; turn++) {
    const io = registration();
    await stdio.openIo(io);
    const writer = spawn('sh', ['-c', `yes 'a line that goes on and on' > ${io.fifos.stdout}`]);
    const ended = new Promise((resolve) => writer.on('exit', resolve));
    // The shell must have started writing, which takes long on a busy machine.
    const until = Date.now() + 20_000;
    while (readFileSync(io.logPath).length === 0 && Date.now() < until) await sleep(10);
    const closing = stdio.removeIo(io);
    await sleep(20);
    writer.kill();
    await Promise.all([closing, ended]);
    const text = readFileSync(io.logPath, 'latin1');
    assert.ok(text.endsWith('\n'));
  }
  assert.deepEqual(events, []);
});

test('a log path that cannot be opened fails the call and leaves nothing open', async () => {
  await using stdio = start();
  const io = registration({ logPath: '/proc/nothing/here.log' });
  await assert.rejects(stdio.openIo(io));
  await assert.rejects(stdio.drain(io.id), { code: 'NOT_READY' });
  await stdio.removeIo(io);
  assert.ok(!existsSync(io.fifos.stdout));
});

test('a path that is not a FIFO is refused', async () => {
  await using stdio = start();
  const path = join(folder, 'file');
  closeSync(openSync(path, 'w'));
  await assert.rejects(stdio.openIo(registration({ fifos: { stdin: '', stdout: path, stderr: '' } })), /not a FIFO/);
});

test('bytes written while no daemon runs are in the log of the next one, in order', async () => {
  const io = registration();
  using out = await (async () => {
    await using first = start();
    await first.openIo(io);
    const out = shim(io.fifos.stdout);
    out.write('one\ntw');
    await until('the first line', () => existsSync(io.logPath) && lines(io.logPath).length === 1);
    return out;
  })();
  out.write('o\nthree\n');
  await using second = start();
  await second.openIo(io);
  await until('the rest', () => lines(io.logPath).length === 4);
  assert.deepEqual(lines(io.logPath), ['stdout F one', 'stdout P tw', 'stdout F o', 'stdout F three']);
  await second.removeIo(io);
});

test('a worker that dies is replaced, and logs continue', async () => {
  const deaths: Error[] = [];
  await using stdio = start([], deaths);
  const io = registration();
  await stdio.openIo(io);
  using out = shim(io.fifos.stdout);
  out.write('before\n');
  await until('the first line', () => existsSync(io.logPath) && lines(io.logPath).length === 1);
  const restarted = stdio.restart();
  await until('the death', () => deaths.length === 1);
  out.write('between\n');
  await restarted;
  assert.equal(deaths.length, 1);
  out.write('after\n');
  await until('all lines', () => lines(io.logPath).length === 3);
  assert.deepEqual(lines(io.logPath), ['stdout F before', 'stdout F between', 'stdout F after']);
  assert.equal(stdio.use.restarts, 1);
  await stdio.removeIo(io);
});
