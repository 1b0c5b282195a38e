import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { withTimeLimit } from '../../src/time-limit.ts';

test('work that ends in time gives its own outcome, a rejection too', async () => {
  assert.equal(await withTimeLimit(Promise.resolve(1), 1000, () => 2), 1);
  await assert.rejects(
    withTimeLimit(Promise.reject(new Error('own')), 1000, () => 2),
    /own/,
  );
});

test('work that is late gives what `late` returns or throws, and is not stopped', async () => {
  let ended = false;
  const work = sleep(50).then(() => {
    ended = true;
  });
  assert.equal(await withTimeLimit(work, 1, () => 'late'), 'late');
  assert.equal(ended, false);
  await work;
  assert.equal(ended, true);
  await assert.rejects(
    withTimeLimit(new Promise(() => {}), 1, () => {
      throw new Error('too late');
    }),
    /too late/,
  );
});

test('a limit beyond what timers take does not fire at once', async () => {
  const work = sleep(20).then(() => 'done');
  assert.equal(await withTimeLimit(work, 2 ** 40, () => 'late'), 'done');
});

test('a rejection after the limit is not unhandled', async () => {
  const { promise, reject } = Promise.withResolvers<never>();
  assert.equal(await withTimeLimit(promise, 1, () => 'late'), 'late');
  reject(new Error('nobody waits for this'));
  await sleep(5);
});
