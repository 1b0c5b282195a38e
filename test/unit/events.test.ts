import assert from 'node:assert/strict';
import { test } from 'node:test';
import { codeOf } from '../../src/errors.ts';
import { Events, type LifecycleEvent } from '../../src/node/store/events.ts';

function make() {
  let at = 0n;
  const dropped: number[] = [];
  const events = new Events(
    () => at++,
    (count) => dropped.push(count),
  );
  return { events, dropped };
}

/** Reads on its own until the end. */
function follow(events: Events, signal: AbortSignal) {
  const seen: LifecycleEvent[] = [];
  const done = (async () => {
    for await (const event of events.subscribe(signal)) seen.push(event);
  })();
  return { seen, done };
}

test('every subscriber gets every event, in order', async () => {
  const { events } = make();
  const end = new AbortController();
  const followers = [1, 2, 3].map(() => follow(events, end.signal));
  for (let n = 0; n < 100; n++) {
    events.publish('created', `c${n}`, 'pod');
    if (n % 10 === 0) await new Promise(setImmediate);
  }
  await new Promise(setImmediate);
  end.abort();
  for (const { seen, done } of followers) {
    await done;
    assert.deepEqual(
      seen.map(({ containerId }) => containerId),
      Array.from({ length: 100 }, (_, n) => `c${n}`),
    );
  }
  assert.equal(events.subscribers, 0);
});

test('a subscriber that does not read is cut off with an error; the others lose nothing, and nobody waits', async () => {
  const { events, dropped } = make();
  const end = new AbortController();
  const quick = follow(events, end.signal);
  const stuck = events.subscribe(end.signal);
  const first = stuck.next();
  for (let n = 0; n < 3000; n++) {
    events.publish('started', `c${n}`, 'pod');
    if (n % 100 === 99) await new Promise(setImmediate);
  }
  assert.equal((await first).value?.containerId, 'c0');
  await assert.rejects(stuck.next(), (error) => codeOf(error) === 'QUEUE_FULL');
  assert.deepEqual(dropped, [1001]);
  assert.equal(events.subscribers, 1);
  end.abort();
  await quick.done;
  assert.equal(quick.seen.length, 3000);
});

test('close ends every subscription, after what waits for it', async () => {
  const { events } = make();
  const never = new AbortController();
  const one = follow(events, never.signal);
  await new Promise(setImmediate);
  events.publish('created', 'c0', 'pod');
  events.close();
  await one.done;
  assert.deepEqual(
    one.seen.map(({ containerId }) => containerId),
    ['c0'],
  );
  assert.equal(events.subscribers, 0);
  await follow(events, never.signal).done; // one that comes later ends as well
});

test('a subscriber gets what happens from its first read on, with both ids and the clock’s time', async () => {
  const { events } = make();
  const end = new AbortController();
  events.publish('created', 'before', 'pod');
  const { seen, done } = follow(events, end.signal);
  events.publish('stopped', 'ctr', 'pod');
  await new Promise(setImmediate);
  end.abort();
  await done;
  assert.deepEqual(seen, [{ type: 'stopped', containerId: 'ctr', sandboxId: 'pod', at: 0n }]);
});

test('without subscribers nothing is kept, and the clock is not read', () => {
  let reads = 0;
  const events = new Events(
    () => BigInt(++reads),
    () => assert.fail('nobody can be dropped'),
  );
  for (let n = 0; n < 5000; n++) events.publish('created', `c${n}`, 'pod');
  assert.equal(reads, 0);
});

test('a subscriber that stops reading is forgotten', async () => {
  const { events } = make();
  const stream = events.subscribe(new AbortController().signal);
  const first = stream.next();
  events.publish('created', 'c', 'pod');
  assert.equal((await first).value?.containerId, 'c');
  assert.equal(events.subscribers, 1);
  await stream.return(undefined);
  assert.equal(events.subscribers, 0);
});

test('a subscription whose signal has aborted before its first read ends at once', async () => {
  const { events } = make();
  assert.deepEqual(await events.subscribe(AbortSignal.abort()).next(), { value: undefined, done: true });
  assert.equal(events.subscribers, 0);
});
