/** The journal of output: whatever the moment of a kill, the next daemon completes the log. */
import assert from 'node:assert/strict';
import fs, {
  appendFileSync,
  closeSync,
  constants,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ContainerIo } from '../../src/workers/stdio/container-io.ts';
import { OutputJournal, type Slot } from '../../src/workers/stdio/journal.ts';
import type { StreamName } from '../../src/workers/stdio/log-lines.ts';
import type { IoRegistration } from '../../src/workers/stdio/protocol.ts';

const EVENTS = { onLogError: (_id: string, path: string, error: Error) => assert.fail(`${path}: ${error.message}`) };
const STAMP = '2026-11-26T10:00:00.000000001Z';

interface Scene {
  slot: Slot;
  /** Adds to the log as the killed daemon did. */
  log(text: string): void;
  size(): number;
}

/** Brings a container into the state of `killed`, opens its IO as the next daemon does, and resolves with its log. */
async function afterKill(t: TestContext, killed: (scene: Scene) => void): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-journal-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const journal = OutputJournal.open([]);
  const fifos = { stdin: '', stdout: join(folder, 'stdout'), stderr: join(folder, 'stderr') };
  const logPath = join(folder, 'log');
  const registration: IoRegistration = { id: 'c', fifos, tty: false, logPath, maxLine: 16384, stdinOnce: false };
  writeFileSync(logPath, '');
  const size = () => readFileSync(logPath).length;
  killed({ slot: journal.claim('c'), log: (text) => appendFileSync(logPath, text), size });
  // The next daemon's second write shows that the first one was committed.
  const io = await ContainerIo.open(registration, EVENTS, journal);
  const out = openSync(fifos.stdout, constants.O_WRONLY | constants.O_NONBLOCK);
  const err = openSync(fifos.stderr, constants.O_WRONLY | constants.O_NONBLOCK);
  appendFileSync(out, 'more\n');
  closeSync(out);
  closeSync(err);
  await io.close();
  journal.descriptors.forEach(closeSync);
  return readFileSync(logPath, 'utf8')
    .replaceAll(/^\S{30} /gm, '')
    .replaceAll('stdout F more\n', '');
}

const entry = (stream: StreamName, tag: string, text: string) => `${STAMP} ${stream} ${tag} ${text}\n`;
/** The slot of a stream with the bytes of a read. */
const read = (slot: Slot, stream: StreamName, text: string) => slot[stream].buffer.write(text);

test('killed after a read', async (t) => {
  const log = await afterKill(t, ({ slot }) => read(slot, 'stdout', 'one\ntwo\n'));
  assert.equal(log, 'stdout F one\nstdout F two\n');
});

test('killed with every number of bytes written', async (t) => {
  const text = entry('stdout', 'F', 'one') + entry('stdout', 'F', 'two');
  for (let written = 0; written <= text.length; written++) {
    const log = await afterKill(t, ({ slot, log, size }) => {
      log(entry('stdout', 'F', 'before'));
      read(slot, 'stdout', 'one\ntwo\n');
      slot.begin('stdout', size());
      log(text.slice(0, written));
    });
    assert.equal(log, 'stdout F before\nstdout F one\nstdout F two\n', `${written} bytes`);
  }
});

test('killed after the commit, before the buffer was cleared', async (t) => {
  const log = await afterKill(t, ({ slot, log, size }) => {
    read(slot, 'stdout', 'one\ntw');
    slot.begin('stdout', 0);
    log(entry('stdout', 'F', 'one'));
    slot.commit('stdout', 'one\ntw'.length, Buffer.from('tw'), size());
    read(slot, 'stdout', 'o\nthr');
    slot.begin('stdout', size());
    log(entry('stdout', 'F', 'two'));
    // As far as the store of the state; the buffer keeps what was read.
    assert.throws(() =>
      slot.stdout.commit('o\nthr'.length, Buffer.from('thr'), () => {
        throw new Error('killed');
      }),
    );
  });
  assert.equal(log, 'stdout F one\nstdout F two\nstdout F thrmore\n');
});

test('an unfinished line goes on in the next daemon', async (t) => {
  const log = await afterKill(t, ({ slot }) => {
    read(slot, 'stdout', 'begin');
    slot.begin('stdout', 0);
    slot.commit('stdout', 5, Buffer.from('begin'), 0);
    read(slot, 'stdout', 'ning\n');
  });
  assert.equal(log, 'stdout F beginning\n');
});

test('killed while an unfinished line was written as a part', async (t) => {
  const text = entry('stderr', 'P', 'part');
  for (const written of [0, 1, text.length - 1, text.length]) {
    const log = await afterKill(t, ({ slot, log, size }) => {
      slot.commit('stderr', 0, Buffer.from('part'), size());
      slot.begin('stderr', size());
      log(text.slice(0, written));
    });
    assert.equal(log, 'stderr P part\n', `${written} bytes`);
  }
});

test('stderr that was held back while stdout was written', async (t) => {
  const log = await afterKill(t, ({ slot, log }) => {
    read(slot, 'stderr', 'error\n');
    read(slot, 'stdout', 'out\n');
    slot.begin('stdout', 0);
    log(entry('stdout', 'F', 'out').slice(0, 20));
  });
  assert.equal(log, 'stdout F out\nstderr F error\n');
});

test('on a slow disk each write has lines of one stream, and the journal’s note of it', {
  timeout: 20_000,
}, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-journal-'));
  const journal = OutputJournal.open([]);
  const fifos = { stdin: '', stdout: join(folder, 'stdout'), stderr: join(folder, 'stderr') };
  const logPath = join(folder, 'log');
  const { write, writeSync } = fs;
  t.after(() => {
    Object.assign(fs, { write, writeSync });
    syncBuiltinESMExports();
    rmSync(folder, { recursive: true, force: true });
    journal.descriptors.forEach(closeSync);
  });
  const slot = journal.claim('c');
  const writes: { streams: string[]; begun: Slot['begun']; size: number }[] = [];
  const note = (lines: Buffer, at: number) => {
    const streams = lines.toString('utf8', at).matchAll(/^\S+ (stdout|stderr) /gm);
    writes.push({ streams: [...new Set(streams.map(([, name = '']) => name))], begun: slot.begun, size: size() });
  };
  const size = () => readFileSync(logPath).length;
  // The first write is slow, after which a thread of libuv's pool writes; there each takes 30 ms.
  const slowSync = (fd: number, lines: Buffer, at: number) => {
    note(lines, at);
    for (const end = performance.now() + 15; performance.now() < end; );
    return writeSync(fd, lines, at);
  };
  const slow = (fd: number, lines: Buffer, at: number, length: number, position: null, done: () => void) => {
    note(lines, at);
    setTimeout(() => write(fd, lines, at, length, position, done), 30);
  };
  Object.assign(fs, { writeSync: slowSync, write: slow });
  syncBuiltinESMExports();

  const registration: IoRegistration = { id: 'c', fifos, tty: false, logPath, maxLine: 16384, stdinOnce: false };
  const io = await ContainerIo.open(registration, EVENTS, journal);
  const out = openSync(fifos.stdout, constants.O_WRONLY | constants.O_NONBLOCK);
  const err = openSync(fifos.stderr, constants.O_WRONLY | constants.O_NONBLOCK);
  for (let i = 0; i < 10; i++) {
    appendFileSync(err, `error ${i}\nunfinished `);
    appendFileSync(out, `line ${i}\nunfinished `);
    await sleep(i * 3);
  }
  closeSync(out);
  closeSync(err);
  await io.close();
  assert.ok(writes.length > 4, `${writes.length} writes`);
  for (const { streams, begun, size } of writes) {
    assert.deepEqual({ streams, size }, { streams: [begun.stream], size: begun.size });
  }
  const lines = readFileSync(logPath, 'utf8').split('\n').slice(0, -1);
  for (const [stream, word] of [
    ['stdout', 'line'],
    ['stderr', 'error'],
  ]) {
    const texts = lines
      .filter((line) => line.includes(` ${stream} `))
      .map((line) => line.split(' ').slice(3).join(' '));
    const all = Array.from({ length: 10 }, (_, i) => `${i > 0 ? 'unfinished ' : ''}${word} ${i}`);
    assert.deepEqual(texts, [...all, 'unfinished ']);
  }
});

test('a log that was truncated or replaced gets what is not written', async (t) => {
  const log = await afterKill(t, ({ slot }) => {
    read(slot, 'stdout', 'one\n');
    slot.begin('stdout', 1000);
  });
  assert.equal(log, 'stdout F one\n');
});

test('slots are found again by id, given back, and used again', () => {
  const first = OutputJournal.open([]);
  const ids = Array.from({ length: 70 }, (_, at) => `container-${at}`);
  for (const id of ids) first.claim(id).stdout.buffer.write(`output of ${id}`);
  first.release('container-3');
  const second = OutputJournal.open([process.pid]);
  for (const id of ids) {
    const unread = second.claim(id).stdout.recover().unread.toString();
    assert.equal(unread, id === 'container-3' ? '' : `output of ${id}`);
  }
  second.retain(new Set(['container-5']));
  const third = OutputJournal.open([process.pid]);
  assert.equal(third.claim('container-5').stdout.recover().unread.toString(), 'output of container-5');
  assert.equal(third.claim('container-6').stdout.recover().unread.length, 0);
  for (const journal of [second, third]) journal.retain(new Set());
  for (const { descriptors } of [first, second, third]) descriptors.forEach(closeSync);
});

test('an attached client gets what the log gets', { timeout: 20_000 }, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-journal-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const journal = OutputJournal.open([]);
  const fifos = { stdin: '', stdout: join(folder, 'stdout'), stderr: join(folder, 'stderr') };
  const logPath = join(folder, 'log');
  const registration: IoRegistration = { id: 'c', fifos, tty: false, logPath, maxLine: 16384, stdinOnce: false };
  const io = await ContainerIo.open(registration, EVENTS, journal);
  const seen: string[] = [];
  io.attach({
    hasRoom: true,
    write: (stream, bytes) => {
      // A client's socket sends later.
      setImmediate(() => seen.push(`${stream}: ${bytes}`));
      return true;
    },
    end: () => {},
    drop: assert.fail,
  });
  const ends = { stdout: openSync(fifos.stdout, 'r+'), stderr: openSync(fifos.stderr, 'r+') };
  for (const [stream, text] of [
    ['stdout', 'one\n'],
    ['stderr', 'two\n'],
    ['stdout', 'three\n'],
  ] as const) {
    appendFileSync(ends[stream], text);
    while (!readFileSync(logPath, 'utf8').includes(text)) await new Promise((resolve) => setTimeout(resolve, 5));
  }
  for (const end of Object.values(ends)) closeSync(end);
  await io.close();
  journal.descriptors.forEach(closeSync);
  assert.deepEqual(seen, ['stdout: one\n', 'stderr: two\n', 'stdout: three\n']);
});
