import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Clock } from '../../src/clock.ts';
import { LogLines, type StreamName } from '../../src/workers/stdio/log-lines.ts';
import { Stamp } from '../../src/workers/stdio/stamp.ts';

class Memory {
  #buffer = Buffer.alloc(0);
  #filled = 0;
  reserve(size: number) {
    if (this.#filled + size > this.#buffer.length) {
      const grown = Buffer.alloc((this.#filled + size) * 2);
      this.#buffer.copy(grown, 0, 0, this.#filled);
      this.#buffer = grown;
    }
    return { buffer: this.#buffer, at: this.#filled };
  }
  commit(size: number) {
    this.#filled += size;
  }
  get text() {
    return this.#buffer.toString('latin1', 0, this.#filled);
  }
  /** `stream tag content` of each entry; fails on an entry whose time is not later than the one before. */
  get entries(): string[] {
    let last = '';
    const lines = this.text.split('\n');
    assert.equal(lines.pop(), '', 'the log ends with a line end');
    return lines.map((line) => {
      const match = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z) (stdout|stderr) ([PF]) (.*)$/s.exec(line);
      assert.ok(match, `a log line: ${line.slice(0, 100)}`);
      const [, time = '', stream, tag, content] = match;
      assert.ok(time > last, `${time} is later than ${last}`);
      last = time;
      return `${stream} ${tag} ${content}`;
    });
  }
}

function log(max = 16384) {
  const memory = new Memory();
  const counts = { entries: 0, split: 0 };
  const stamp = new Stamp(new Clock());
  const make = (stream: StreamName) => new LogLines(stream, max, stamp, memory, counts);
  return { memory, counts, stdout: make('stdout'), stderr: make('stderr') };
}

const bytes = (text: string) => Buffer.from(text, 'latin1');

test('whole lines become F entries, an empty line an empty entry', () => {
  const { memory, counts, stdout } = log();
  stdout.push(bytes('one\n\ntwo\n'));
  assert.deepEqual(memory.entries, ['stdout F one', 'stdout F ', 'stdout F two']);
  assert.deepEqual(counts, { entries: 3, split: 0 });
});

test('a line that arrives in pieces is one entry', () => {
  const { memory, stdout } = log();
  for (const piece of ['he', 'l', 'lo', '\n', 'x\ny', '\n']) stdout.push(bytes(piece));
  assert.deepEqual(memory.entries, ['stdout F hello', 'stdout F x', 'stdout F y']);
});

test('CR LF ends a line like LF, also when it arrives in two halves; other CRs stay', () => {
  const { memory, stdout } = log();
  stdout.push(bytes('a\r\n\r\nb\rc\r'));
  stdout.push(bytes('\nd\r\r\n'));
  assert.deepEqual(memory.entries, ['stdout F a', 'stdout F ', 'stdout F b\rc', 'stdout F d\r']);
});

test('the streams of a container do not mix within a line and keep the order of the line ends', () => {
  const { memory, stdout, stderr } = log();
  stdout.push(bytes('out begins'));
  stderr.push(bytes('err\n'));
  stdout.push(bytes(', out ends\n'));
  assert.deepEqual(memory.entries, ['stderr F err', 'stdout F out begins, out ends']);
});

test('a line longer than the limit is split; a line of exactly the limit is not', () => {
  const { memory, counts, stdout } = log(10);
  stdout.push(bytes(`${'x'.repeat(10)}\n${'y'.repeat(11)}\n${'z'.repeat(20)}\n`));
  assert.deepEqual(memory.entries, [
    `stdout F ${'x'.repeat(10)}`,
    `stdout P ${'y'.repeat(10)}`,
    'stdout F y',
    `stdout P ${'z'.repeat(10)}`,
    `stdout F ${'z'.repeat(10)}`,
  ]);
  assert.deepEqual(counts, { entries: 5, split: 2 });
});

test('lines are split at the same places however the bytes arrive', () => {
  const text = `${'a'.repeat(35)}\nshort\n${'b'.repeat(9)}\r\n${'c'.repeat(20)}\n\n`;
  const whole = log(10);
  whole.stdout.push(bytes(text));
  for (const size of [1, 2, 3, 7, 10, 11, 13]) {
    const { memory, stdout } = log(10);
    for (let at = 0; at < text.length; at += size) stdout.push(bytes(text.slice(at, at + size)));
    assert.deepEqual(memory.entries, whole.memory.entries, `in pieces of ${size}`);
  }
});

test('the parts of a line of a megabyte join to the whole line', () => {
  const { memory, stdout } = log();
  const line = Array.from({ length: 1 << 20 }, (_, at) => String.fromCharCode(97 + (at % 26))).join('');
  for (let at = 0; at < line.length; at += 65536) stdout.push(bytes(line.slice(at, at + 65536)));
  stdout.push(bytes('\n'));
  const { entries } = memory;
  assert.equal(entries.length, 64);
  assert.ok(entries.every((entry, at) => entry.startsWith(at === 63 ? 'stdout F ' : 'stdout P ')));
  assert.equal(entries.map((entry) => entry.slice('stdout P '.length)).join(''), line);
});

test('a flush writes an unfinished line as a partial entry, and the line continues after it', () => {
  const { memory, stdout } = log();
  stdout.push(bytes('login: '));
  stdout.flush(false);
  stdout.flush(false);
  stdout.push(bytes('root\r'));
  stdout.flush(false);
  stdout.push(bytes('\n'));
  stdout.push(bytes('end\r'));
  stdout.flush(true);
  assert.deepEqual(memory.entries, ['stdout P login: ', 'stdout P root', 'stdout F ', 'stdout P end\r']);
});

test('a flush holds back the carriage return of a long line', () => {
  const { memory, stdout } = log();
  stdout.push(bytes(`${'x'.repeat(6000)}\r`));
  stdout.flush(false);
  stdout.push(bytes('y\n'));
  assert.deepEqual(memory.entries, [`stdout P ${'x'.repeat(6000)}`, 'stdout F \ry']);
});

test('bytes that are not UTF-8 are kept', () => {
  const { memory, stdout } = log();
  const all = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte).filter((byte) => byte !== 10 && byte !== 13));
  stdout.push(Buffer.concat([all, bytes('\n')]));
  assert.deepEqual(memory.entries, [`stdout F ${all.toString('latin1')}`]);
});

test('stamps carry over into the next second, and increase even when the clock is set back', () => {
  const times = [
    { seconds: 1475712999, nanos: 999_999_998 },
    { seconds: 1475712000, nanos: 5 },
    { seconds: 1475713001, nanos: 42 },
  ];
  const clock = { now: () => times.shift() ?? { seconds: 0, nanos: 0 } } as Clock;
  const stamp = new Stamp(clock);
  const text = () => stamp.bytes.toString('latin1');
  stamp.refresh();
  assert.equal(text(), '2016-10-06T00:16:39.999999998Z');
  stamp.step();
  assert.equal(text(), '2016-10-06T00:16:39.999999999Z');
  stamp.refresh();
  assert.equal(text(), '2016-10-06T00:16:40.000000000Z');
  stamp.refresh();
  assert.equal(text(), '2016-10-06T00:16:41.000000042Z');
});

test('the clock agrees with the wall clock', () => {
  const clock = new Clock();
  const { seconds, nanos } = clock.now();
  assert.ok(Math.abs(seconds * 1000 + nanos / 1e6 - Date.now()) < 20);
});
