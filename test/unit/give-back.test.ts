import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { cachedDataVersionTag } from 'node:v8';
import { giveBackAfterStorms } from '../../src/main/give-back.ts';
import { shrinkHeap, trimMemory, unmapProgram } from '../../src/sys/memory.ts';

test('memory is given back once after each storm, when nothing runs', async () => {
  const lane = { running: 0, queued: 0, limit: 1 };
  let admitted = 0;
  /** Jobs that are admitted between two looks. */
  let storm = 0;
  let looks = 0;
  const admission = {
    get admitted() {
      looks++;
      admitted += storm;
      return admitted;
    },
    use: { launch: lane, teardown: { ...lane }, image: { ...lane } },
  };
  let trims = 0;
  const giveBack = async () => {
    trims++;
    if (trims === 3) throw new Error('no more');
  };
  let light = 0;
  let threads = 0;
  let answered = 0;
  /** Calls that are answered between two looks. */
  let calls = 0;
  const errors: unknown[] = [];
  using _watch = giveBackAfterStorms({
    admission,
    giveBack,
    trim: async () => void light++,
    passingThreads: () => threads,
    answered: () => {
      answered += calls;
      return answered;
    },
    onError: (error) => errors.push(error),
    everyMs: 1,
  });
  const later = async () => {
    for (const wanted = looks + 4; looks < wanted; ) await sleep(2);
  };

  await later();
  assert.equal(trims, 1, 'after the start');
  admitted += 20;
  await later();
  assert.equal(trims, 1, 'a few jobs are no storm');
  admitted += 480;
  lane.running = 1;
  await later();
  assert.equal(trims, 1, 'jobs run');
  lane.running = 0;
  await later();
  assert.equal(trims, 2);
  storm = 50;
  await later();
  assert.equal(trims, 2, 'jobs come, though none runs at the moment');
  storm = 0;
  await later();
  assert.equal(trims, 3);
  assert.equal(errors.length, 1, 'a failure is reported');

  calls = 100;
  admitted += 500;
  await later();
  assert.equal(trims, 3, 'calls come');
  calls = 1;
  await later();
  assert.equal(trims, 4);
  calls = 100;
  admitted += 500;
  for (let i = 0; i < 5; i++) await later();
  assert.equal(trims, 5, 'calls come without end');
  calls = 0;

  threads = 2;
  await later();
  assert.equal(light, 0, 'threads are there');
  threads = 0;
  lane.running = 1;
  await later();
  assert.equal(light, 0, 'they have ended, but a job runs');
  lane.running = 0;
  await later();
  assert.equal(light, 1);
  await later();
  assert.deepEqual([light, trims], [1, 5], 'once');
});

test('the heap of an idle thread shrinks', async () => {
  let junk: unknown[] = Array.from({ length: 300_000 }, (_, at) => ({ at, text: `item ${at}` }));
  assert.equal(junk.length, 300_000);
  junk = [];
  const tag = cachedDataVersionTag();
  const before = process.memoryUsage().heapTotal;
  await shrinkHeap();
  const after = process.memoryUsage().heapTotal;
  assert.equal(cachedDataVersionTag(), tag, 'compiled code in caches stays valid');
  assert.ok(after < before - (10 << 20), `${before} → ${after}, ${junk.length}`);
});

test('what the allocator keeps goes back to the kernel', () => {
  assert.equal(typeof trimMemory(), 'boolean');
});

test('pages of the program are unmapped, those alone, and come back when they are used', () => {
  const mapped = () => {
    const sizes = { program: 0, written: 0 };
    let own = false;
    for (const line of readFileSync('/proc/self/smaps', 'latin1').split('\n')) {
      if (/^[0-9a-f]+-/.test(line)) own = line.endsWith(` ${process.execPath}`);
      const [, field, kib] = /^(Rss|Anonymous): +(\d+) kB$/.exec(line) ?? [];
      if (own && field) sizes[field === 'Rss' ? 'program' : 'written'] += Number(kib) * 1024;
    }
    return sizes;
  };
  const before = mapped();
  const unmapped = unmapProgram();
  const after = mapped();
  assert.ok(unmapped > 10 << 20, `${unmapped} of ${before.program} bytes`);
  assert.ok(after.program < before.program - unmapped / 2, `${before.program} → ${after.program}`);
  assert.equal(after.written, before.written, 'what the linker wrote stays');
  assert.equal(new Intl.NumberFormat('de').format(1234.5), '1.234,5', 'ICU works');
  assert.equal(new Function('a', 'return a + 1')(1), 2, 'the compiler works');
  assert.ok(mapped().program > after.program);
});
