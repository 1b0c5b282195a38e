import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { test } from 'node:test';
import { makeUnfinished } from '../../src/workers/image/unfinished.ts';

const PREFIX = 'sluice-unfinished-';

function folder(): Disposable & { path: string; dir: string } {
  const path = mkdtempSync(join(tmpdir(), PREFIX));
  return {
    path,
    dir: join(path, '7'),
    [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }),
  };
}

test('the folder of an unfinished layer has an empty fs, and no other folder stays', () => {
  using place = folder();
  const before = process.umask(0o077);
  let made: string;
  try {
    made = makeUnfinished(place.dir);
  } finally {
    process.umask(before);
  }
  assert.deepEqual(readdirSync(place.path), [basename(made)]);
  assert.match(basename(made), /^7\.tmp-/);
  assert.deepEqual(readdirSync(made), ['fs']);
  assert.deepEqual(readdirSync(join(made, 'fs')), []);
  assert.equal(statSync(made).mode & 0o777, 0o700);
  assert.equal(statSync(join(made, 'fs')).mode & 0o777, 0o755);
});

test('where making a file takes long, other names are tried while the slow ones stay', () => {
  using place = folder();
  const there: number[] = [];
  const times = [3, 2, 0.001, 0];
  const made = makeUnfinished(place.dir, {
    probe: () => {
      there.push(readdirSync(place.path).length);
      return times.shift() ?? 0;
    },
  });
  assert.deepEqual(there, [1, 2, 3]);
  assert.deepEqual(readdirSync(place.path), [basename(made)]);
});

test('when all are slow, the least slow one is taken', () => {
  using place = folder();
  const slow = new Map<string, number>();
  const made = makeUnfinished(place.dir, {
    probe: (fs) => {
      const ms = 9 - (slow.size % 5) - (slow.size === 6 ? 5 : 0);
      slow.set(fs, ms);
      return ms;
    },
  });
  assert.equal(slow.size, 8);
  assert.equal(slow.get(`${made}/fs`), Math.min(...slow.values()));
  assert.deepEqual(readdirSync(place.path), [basename(made)]);
});

test('the neighbourhood of what is being removed is taken only when there is no other', () => {
  using place = folder();
  const avoid = Array.from({ length: 4096 }, (_, group) => group * 16 * 8192 + 1);
  avoid.push(statSync(place.path).ino);
  let probes = 0;
  const made = makeUnfinished(place.dir, { avoid, probe: () => ++probes && 0 });
  assert.equal(probes, 0);
  assert.deepEqual(readdirSync(place.path), [basename(made)]);
});

test('a probe that fails leaves nothing', () => {
  using place = folder();
  const full = Object.assign(new Error('no space'), { code: 'ENOSPC' });
  const probe = () => {
    throw full;
  };
  assert.throws(() => makeUnfinished(place.dir, { probe }), { code: 'ENOSPC' });
  assert.deepEqual(readdirSync(place.path), []);
});
