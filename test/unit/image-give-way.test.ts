import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { GiveWay, giveWayMemory, LateLaunches } from '../../src/workers/image/give-way.ts';

const NEVER = 3_600_000;
/** Few enough. */
const processors = 2;

/** Late launches, as the threads for layers read them. */
const lateOf = (memory: SharedArrayBuffer) => Atomics.load(new Int32Array(memory), 0);

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await sleep(1);
}

test('a launch counts once it is late, until it ends', async () => {
  const memory = giveWayMemory();
  const launches = new LateLaunches(memory, { lateMs: 1, patienceMs: NEVER, processors });
  const [first, second] = [launches.begin(), launches.begin()];
  assert.equal(lateOf(memory), 0);
  await until(() => lateOf(memory) === 2);
  first?.[Symbol.dispose]();
  assert.equal(lateOf(memory), 1);
  first?.[Symbol.dispose]();
  assert.equal(lateOf(memory), 1, 'one launch has ended twice');
  second?.[Symbol.dispose]();
  assert.equal(lateOf(memory), 0);
});

test('a launch that ends in time never counts', async () => {
  const memory = giveWayMemory();
  const launches = new LateLaunches(memory, { lateMs: 20, processors });
  launches.begin()?.[Symbol.dispose]();
  await sleep(40);
  assert.equal(lateOf(memory), 0);
});

test('a launch that waits for something else does not count for ever', async () => {
  const memory = giveWayMemory();
  using _ = new LateLaunches(memory, { lateMs: 1, patienceMs: 30, processors }).begin();
  await until(() => lateOf(memory) === 1);
  await until(() => lateOf(memory) === 0);
});

test('with many processors no launch counts', () => {
  const launches = new LateLaunches(giveWayMemory(), { lateMs: 1, processors: 16 });
  assert.equal(launches.begin(), undefined);
});

test('a thread stands still while a launch is late, and goes on when the last one ends', async () => {
  const memory = giveWayMemory();
  const launches = new LateLaunches(memory, { lateMs: 1, patienceMs: NEVER, processors });
  const first = launches.begin();
  await until(() => lateOf(memory) === 1);
  const source = `
    const { parentPort, workerData } = require('node:worker_threads');
    import(workerData.module).then(({ GiveWay }) => {
      const way = new GiveWay(workerData.memory, { creditMs: ${NEVER} });
      parentPort.postMessage('begins');
      parentPort.postMessage(way.give());
    });`;
  const module = new URL('../../src/workers/image/give-way.ts', import.meta.url).href;
  const thread = new Worker(source, { eval: true, workerData: { module, memory } });
  assert.deepEqual(await once(thread, 'message'), ['begins']);
  const second = launches.begin();
  await until(() => lateOf(memory) === 2);
  let paused: number | undefined;
  const ended = once(thread, 'message').then(([ms]) => {
    paused = ms;
  });
  first?.[Symbol.dispose]();
  await sleep(30);
  assert.equal(paused, undefined, 'it goes on while a launch is late');
  second?.[Symbol.dispose]();
  await ended;
  assert.ok(paused !== undefined && paused >= 25, `${paused}`);
  await once(thread, 'exit');
});

test('a thread that has stood still works as long again before it does so anew', async () => {
  const memory = giveWayMemory();
  Atomics.store(new Int32Array(memory), 0, 1); // a launch that never ends
  const began = performance.now();
  const way = new GiveWay(memory, { creditMs: 300 });
  const first = way.give();
  assert.ok(first >= 300, `${first}`);
  const second = way.give();
  assert.ok(second < 150, `it works for a moment, and stands still for ${second} ms`);
  await sleep(60);
  const third = way.give();
  assert.ok(third >= 15 && third < 250, `${third}`);
  const all = performance.now() - began;
  const [paused, worked] = [first + second + third, all - first - second - third];
  assert.ok(paused <= 300 + worked + 150, `${paused} ms of pauses beside ${worked} of work`);
});
