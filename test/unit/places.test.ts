import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Places } from '../../src/pipeline/engine/places.ts';

const never = () => new Promise<void>(() => {});

test('as many run as there are places, higher priorities first', async () => {
  const places = new Places({ limit: 1 });
  const order: string[] = [];
  const { promise: hold, resolve: release } = Promise.withResolvers<void>();
  const all = [
    places.add(() => hold, { priority: 0 }),
    places.add(async () => void order.push('low'), { priority: 0 }),
    places.add(async () => void order.push('high'), { priority: 1 }),
  ];
  assert.deepEqual([places.running, places.queued, places.full], [1, 2, true]);
  release();
  await Promise.all(all);
  assert.deepEqual(order, ['high', 'low']);
  await places.idle();
  assert.equal(places.full, false);
});

test('without a lease a place is kept to the end', async () => {
  const places = new Places({ limit: 1 });
  void places.add(never, { priority: 0 });
  let ran = false;
  const run = async () => {
    ran = true;
  };
  void places.add(run, { priority: 0 });
  await sleep(50);
  assert.equal(ran, false);
});

test('the number of those that run without a place is bounded', async () => {
  const places = new Places({ limit: 2, leaseMs: 5 });
  for (let i = 0; i < 100; i++) void places.add(never, { priority: 0 });
  for (let n = 0; places.running < 10 && n < 500; n++) await sleep(10);
  await sleep(100);
  assert.equal(places.running, 10, 'two with a place, four times two without');
  assert.equal(places.queued, 90);
});

test('an error reaches the caller, also after the place was given back', async () => {
  const places = new Places({ limit: 1, leaseMs: 5 });
  const late = async () => {
    await sleep(30);
    throw new Error('boom');
  };
  await assert.rejects(places.add(late, { priority: 0 }), /boom/);
  await places.idle();
});

test('idle waits for those without a place as well', async () => {
  const places = new Places({ limit: 1, leaseMs: 5 });
  let ended = false;
  const run = async () => {
    await sleep(40);
    ended = true;
  };
  void places.add(run, { priority: 0 });
  await places.idle();
  assert.ok(ended);
});

test('a signal takes back what waits', async () => {
  const places = new Places({ limit: 1 });
  void places.add(never, { priority: 0 });
  const gone = new AbortController();
  const waiting = places.add(never, { priority: 0, signal: gone.signal });
  gone.abort(new Error('left'));
  await assert.rejects(waiting, /left/);
  assert.equal(places.queued, 0);
});
