import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { cachedDataVersionTag } from 'node:v8';
import { giveBackAfterStorms } from '../../src/main/give-back.ts';
import { shrinkHeap, trimMemory } from '../../src/sys/memory.ts';

test('memory is given back once after each storm, when nothing runs', async () => {
  const lane = { running: 0, queued: 0, limit: 1 };
  const admission = { admitted: 0, use: { launch: lane, teardown: { ...lane }, image: { ...lane } } };
  let trims = 0;
  const giveBack = async () => {
    trims++;
    if (trims === 3) throw new Error('no more');
  };
  const errors: unknown[] = [];
  using _watch = giveBackAfterStorms({ admission, giveBack, onError: (error) => errors.push(error), everyMs: 5 });
  const later = () => sleep(40);

  await later();
  assert.equal(trims, 1, 'after the start');
  admission.admitted = 20;
  await later();
  assert.equal(trims, 1, 'a few jobs are no storm');
  admission.admitted = 500;
  lane.running = 1;
  await later();
  assert.equal(trims, 1, 'jobs run');
  lane.running = 0;
  await later();
  assert.equal(trims, 2);
  const storm = setInterval(() => {
    admission.admitted += 50;
  }, 1);
  await later();
  assert.equal(trims, 2, 'jobs come, though none runs at the moment');
  clearInterval(storm);
  await later();
  assert.equal(trims, 3);
  assert.equal(errors.length, 1, 'a failure is reported');
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
