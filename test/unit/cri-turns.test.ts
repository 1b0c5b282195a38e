import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { type Source, Turns } from '../../src/main/cri/turns.ts';

/** Milliseconds of a call's synchronous part: two of them use up a turn. */
const WORK_MS = 2;
const work = () => {
  for (const end = performance.now() + WORK_MS; performance.now() < end; );
};

class FakeSource implements Source {
  readonly told: string[] = [];
  hold(): void {
    this.told.push('hold');
  }
  release(): void {
    this.told.push('release');
  }
}

async function all(turns: Turns): Promise<number> {
  let count = 0;
  for (; turns.waiting > 0; count++) await turn();
  return count;
}

test('a call that comes alone starts at once, and so does the one of the next turn', async () => {
  const turns = new Turns();
  const source = new FakeSource();
  let started = 0;
  for (let i = 0; i < 5; i++) {
    turns.run(
      true,
      () => source,
      () => {
        started++;
        work();
      },
    );
    assert.equal(started, i + 1);
    await turn();
  }
  assert.deepEqual(source.told, []);
});

test('of many calls that come at once, each turn starts some; their connection brings no more until all have started', async () => {
  const turns = new Turns();
  const source = new FakeSource();
  const started: number[] = [];
  const run = (number: number) => {
    started.push(number);
    work();
  };
  for (let i = 0; i < 20; i++)
    turns.run(
      true,
      () => source,
      () => run(i),
    );
  assert.ok(started.length <= 2, `${started.length} at once`);
  assert.deepEqual(source.told, ['hold']);
  assert.ok((await all(turns)) >= 5, 'turns between them');
  assert.deepEqual(
    started,
    Array.from({ length: 20 }, (_, i) => i),
  );
  assert.deepEqual(source.told, ['hold', 'release']);
});

test('what follows from a call at once, in microtasks and ticks, counts for its turn', async () => {
  const turns = new Turns();
  let ended = 0;
  for (let i = 0; i < 12; i++) {
    turns.run(
      true,
      () => undefined,
      async () => {
        if (i > 0) await null; // the first one is the budget's
        work();
        ended++;
      },
    );
    if (i === 0) work();
  }
  let turnsTaken = 0;
  for (let before = ended; turns.waiting > 0; before = ended, turnsTaken++) {
    await turn();
    assert.ok(ended - before <= 3, `${ended - before} in one turn`);
  }
  await turn();
  assert.equal(ended, 12);
  assert.ok(turnsTaken >= 4, `${turnsTaken} turns`);
});

test('calls that launch nothing and never end do not keep a launch waiting for ever', async () => {
  const turns = new Turns();
  let [lists, launched] = [0, false];
  const list = () => {
    lists++;
    if (!launched) turns.run(false, () => undefined, list);
  };
  const launch = () => {
    launched = true;
  };
  turns.run(false, () => undefined, work);
  turns.run(false, () => undefined, work); // the turn's budget is used up
  for (let i = 0; i < 3; i++) turns.run(false, () => undefined, list);
  turns.run(true, () => undefined, launch);
  for (let i = 0; i < 500 && !launched; i++) await turn();
  assert.ok(launched, `${lists} went before it`);
  assert.ok(lists <= 20, `${lists} went before it`);
  assert.ok((await all(turns)) < 10);
});

test('calls that launch nothing overtake those that do, and connections take turns', async () => {
  const turns = new Turns();
  const [a, b] = [new FakeSource(), new FakeSource()];
  const started: string[] = [];
  const call = (launches: boolean, source: Source, name: string) =>
    turns.run(
      launches,
      () => source,
      () => {
        started.push(name);
        work();
      },
    );
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
  assert.deepEqual(a.told, ['hold', 'release']);
  assert.deepEqual(b.told, ['hold', 'release']);
});
