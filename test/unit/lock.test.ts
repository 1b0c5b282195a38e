import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Locks } from '../../src/pipeline/engine/lock.ts';

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

/** Takes the lock in the background, and says in `order` when it is held. */
function taker(locks: Locks, order: string[]) {
  return async (name: string, mode: 'shared' | 'exclusive', key = 'pod') => {
    const lock = await locks.take('pod', key, mode);
    order.push(name);
    return lock;
  };
}

test('a shared lock is held by many at once', async () => {
  const locks = new Locks();
  using _a = await locks.take('pod', 'pod', 'shared');
  using _b = await locks.take('pod', 'pod', 'shared');
  assert.equal(locks.held('pod'), false);
});

test('an exclusive lock waits for every shared holder, and shared ones wait for it', async () => {
  const locks = new Locks();
  const order: string[] = [];
  const take = taker(locks, order);
  const a = await take('a', 'shared');
  const b = await take('b', 'shared');
  const exclusive = take('exclusive', 'exclusive');
  a[Symbol.dispose]();
  await turn();
  assert.deepEqual(order, ['a', 'b']);
  b[Symbol.dispose]();
  const held = await exclusive;
  assert.equal(locks.held('pod'), true);
  const later = take('later', 'shared');
  await turn();
  assert.deepEqual(order, ['a', 'b', 'exclusive']);
  held[Symbol.dispose]();
  using _later = await later;
  assert.equal(locks.held('pod'), false);
});

test('an exclusive lock keeps out a second one', async () => {
  const locks = new Locks();
  const order: string[] = [];
  const take = taker(locks, order);
  const first = await take('first', 'exclusive');
  const second = take('second', 'exclusive');
  await turn();
  assert.deepEqual(order, ['first']);
  first[Symbol.dispose]();
  using _second = await second;
  assert.equal(locks.held('pod'), true);
});

test('first come first served: shared ones that come later do not overtake a waiting exclusive one', async () => {
  const locks = new Locks();
  const order: string[] = [];
  const take = taker(locks, order);
  const first = await take('first', 'shared');
  const exclusive = take('exclusive', 'exclusive');
  const late = [take('late 1', 'shared'), take('late 2', 'shared')];
  const last = take('last', 'exclusive');
  await turn();
  assert.deepEqual(order, ['first']);
  first[Symbol.dispose]();
  const held = await exclusive;
  await turn();
  assert.deepEqual(order, ['first', 'exclusive']);
  held[Symbol.dispose]();
  const both = await Promise.all(late);
  await turn();
  assert.deepEqual(order, ['first', 'exclusive', 'late 1', 'late 2'], 'neighbours in the queue share');
  for (const lock of both) lock[Symbol.dispose]();
  using _last = await last;
});

test('keys do not wait for each other', async () => {
  const locks = new Locks();
  using _a = await locks.take('pod', 'a', 'exclusive');
  using _b = await locks.take('pod', 'b', 'exclusive');
  assert.deepEqual([locks.held('a'), locks.held('b'), locks.held('c')], [true, true, false]);
});

test('a lock that everyone has released is free again', async () => {
  const locks = new Locks();
  for (let round = 0; round < 3; round++) {
    {
      using _exclusive = await locks.take('pod', 'pod', 'exclusive');
      assert.equal(locks.held('pod'), true);
    }
    assert.equal(locks.held('pod'), false);
    using _shared = await locks.take('pod', 'pod', 'shared');
  }
});

test('a holder that throws releases the lock', async () => {
  const locks = new Locks();
  await assert.rejects(async () => {
    using _lock = await locks.take('pod', 'pod', 'exclusive');
    throw new Error('boom');
  }, /boom/);
  using _next = await locks.take('pod', 'pod', 'exclusive');
});

test('how long each lock was waited for, and how many wait', async () => {
  const taken: { kind: string; mode: string; seconds: number }[] = [];
  const locks = new Locks((kind, mode, seconds) => taken.push({ kind, mode, seconds }));
  const shared = await locks.take('pod', 'a', 'shared');
  const stop = locks.take('pod', 'a', 'exclusive');
  const create = locks.take('pod', 'a', 'shared');
  using _container = await locks.take('container', 'c', 'exclusive');
  assert.deepEqual(locks.waiting, { pod: 2, container: 0 });
  await new Promise((resolve) => setTimeout(resolve, 30));
  shared[Symbol.dispose]();
  const stopping = await stop;
  assert.deepEqual(locks.waiting, { pod: 1, container: 0 });
  stopping[Symbol.dispose]();
  using _create = await create;
  assert.deepEqual(locks.waiting, { pod: 0, container: 0 });
  assert.deepEqual(
    taken.map(({ kind, mode, seconds }) => [kind, mode, seconds >= 0.025]),
    [
      ['pod', 'shared', false],
      ['container', 'exclusive', false],
      ['pod', 'exclusive', true],
      ['pod', 'shared', true],
    ],
  );
});
