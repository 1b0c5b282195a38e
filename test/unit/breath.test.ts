import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { MessageChannel } from 'node:worker_threads';
import { breath } from '../../src/node/threads/breath.ts';

/** Milliseconds: two of them use up a turn. */
const WORK_MS = 2;
const work = () => {
  for (const end = performance.now() + WORK_MS; performance.now() < end; );
};

test('what comes alone does not wait', async () => {
  for (let i = 0; i < 5; i++) {
    await turn();
    assert.equal(breath(), undefined);
    work();
  }
});

test('what comes at once goes on over many turns, in its order, and others get theirs in between', async () => {
  await turn();
  const gone: number[] = [];
  const one = async (number: number) => {
    await breath();
    await null;
    work();
    gone.push(number);
  };
  const all = Array.from({ length: 20 }, (_, number) => one(number));
  let turns = 0;
  for (let before = 0; gone.length < 20; before = gone.length, turns++) {
    await turn();
    // Those that found time left at first have not used it yet.
    if (turns > 0) assert.ok(gone.length - before <= 3, `${gone.length - before} in one turn`);
  }
  await Promise.all(all);
  assert.deepEqual(
    gone,
    Array.from({ length: 20 }, (_, number) => number),
  );
});

test('answers of a thread leave the turn when its time is used up', async () => {
  const { port1, port2 } = new MessageChannel();
  let [gone, lookedAt, most] = [0, 0, 0];
  port2.on('message', async () => {
    await breath();
    work();
    gone++;
  });
  for (let i = 0; i < 20; i++) port1.postMessage(i); // all have come when the first is read
  let turns = 0;
  for (; gone < 20; turns++) {
    await turn();
    most = Math.max(most, gone - lookedAt);
    lookedAt = gone;
  }
  port2.close();
  assert.ok(most <= 4, `${most} in one turn`);
  assert.ok(turns >= 5, `${turns} turns`);
});
