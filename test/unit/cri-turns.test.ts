import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { Turns } from '../../src/main/cri/turns.ts';

/** Milliseconds of a call's synchronous part: more than a turn has. */
const WORK_MS = 2;
const work = () => {
  for (const end = performance.now() + WORK_MS; performance.now() < end; );
};

async function all(turns: Turns): Promise<number> {
  let count = 0;
  for (; turns.waiting > 0; count++) await turn();
  return count;
}

test('a call that comes alone starts at once, and so does the one of the next turn', async () => {
  const turns = new Turns();
  let started = 0;
  const start = () => {
    started++;
    work();
    turns.begun();
  };
  for (let i = 0; i < 5; i++) {
    turns.run(true, undefined, start);
    assert.equal(started, i + 1);
    await turn();
  }
});

test('of many calls that come at once, each turn starts some', async () => {
  const turns = new Turns();
  const started: number[] = [];
  const run = (number: number) => {
    started.push(number);
    work();
    turns.begun();
  };
  for (let i = 0; i < 20; i++) turns.run(true, undefined, () => run(i));
  assert.ok(started.length <= 2, `${started.length} at once`);
  assert.ok((await all(turns)) >= 5, 'turns between them');
  assert.deepEqual(
    started,
    Array.from({ length: 20 }, (_, i) => i),
  );
});

test('work that begins some ticks after the start, and what follows from it in microtasks, counts for the turn', async () => {
  const turns = new Turns();
  let ended = 0;
  const begin = async () => {
    const following = (async () => {
      await null;
      work();
    })();
    turns.begun();
    await following;
    ended++;
  };
  const start = () => process.nextTick(() => process.nextTick(begin));
  // As a read brings them: one after the other, and no tick before the last.
  for (let i = 0; i < 16; i++) turns.run(true, undefined, start);
  assert.equal(turns.waiting, 12, 'a few start as they come');
  let turnsTaken = 0;
  for (let before = ended; turns.waiting > 0; before = ended, turnsTaken++) {
    await turn();
    const most = turnsTaken === 0 ? 4 + 2 : 2; // the first has those that started as they came, too
    assert.ok(ended - before <= most, `${ended - before} in turn ${turnsTaken}`);
  }
  await turn();
  assert.equal(ended, 16);
  assert.ok(turnsTaken >= 5, `${turnsTaken} turns`);
});

test('calls whose message does not come keep nobody waiting for more than a turn', async () => {
  const turns = new Turns();
  for (let i = 0; i < 10; i++) turns.run(true, undefined, () => {});
  let begun = false;
  turns.run(true, undefined, () => {
    begun = true;
    turns.begun();
  });
  assert.ok((await all(turns)) <= 10);
  assert.ok(begun);
});

test('calls that launch nothing and never end do not keep a launch waiting for ever', async () => {
  const turns = new Turns();
  let [lists, launched] = [0, false];
  const list = () => {
    lists++;
    if (!launched) turns.run(false, undefined, list);
    turns.begun();
  };
  const launch = () => {
    launched = true;
    turns.begun();
  };
  const hold = () => {
    work();
    turns.begun();
  };
  turns.run(false, undefined, hold);
  turns.run(false, undefined, hold); // the turn's budget is used up
  for (let i = 0; i < 3; i++) turns.run(false, undefined, list);
  turns.run(true, undefined, launch);
  for (let i = 0; i < 500 && !launched; i++) await turn();
  assert.ok(launched, `${lists} went before it`);
  assert.ok(lists <= 20, `${lists} went before it`);
  assert.ok((await all(turns)) < 10);
});

test('calls that launch nothing overtake those that do, and connections take turns', async () => {
  const turns = new Turns();
  const [a, b] = [{}, {}];
  const started: string[] = [];
  const call = (launches: boolean, connection: object, name: string) =>
    turns.run(launches, connection, () => {
      started.push(name);
      work();
      turns.begun();
    });
  for (let i = 0; i < 8; i++) call(true, a, `a${i}`);
  const before = started.length;
  call(true, b, 'b0');
  call(true, b, 'b1');
  call(false, b, 'stop');
  await all(turns);
  const order = started.slice(before);
  assert.equal(order[0], 'stop');
  assert.ok(order.indexOf('b0') <= 2 && order.indexOf('b1') <= 4, order.join(' '));
  assert.equal(order.at(-1), 'a7');
});
