import assert from 'node:assert/strict';
import { mock, type TestContext, test } from 'node:test';
import { RetryQueue } from '../../src/pipeline/engine/retry-queue.ts';

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

/** A queue whose pauses are 100, 200, 400, 400, … ms of a clock that the test moves. */
function make(t: TestContext) {
  mock.timers.enable({ apis: ['setTimeout'] });
  t.after(() => mock.timers.reset());
  const outcomes: string[] = [];
  const failures: [reason: string, attempts: number][] = [];
  const queue = new RetryQueue({
    firstDelayMs: 100,
    lastDelayMs: 400,
    onRetry: (outcome) => outcomes.push(outcome),
  });
  t.after(() => queue[Symbol.dispose]());
  const pass = async (ms: number) => {
    mock.timers.tick(ms);
    await turn();
  };
  const onFailure = (reason: string, attempts: number) => void failures.push([reason, attempts]);
  return { queue, outcomes, failures, onFailure, pass };
}

/** Fails so many times, then succeeds. */
function flaky(times: number) {
  const work = async () => {
    if (++work.tries <= times) throw new Error(`failure ${work.tries}`);
  };
  work.tries = 0;
  return work;
}

test('pauses double up to the last one, until the work succeeds', async (t) => {
  const { queue, outcomes, failures, onFailure, pass } = make(t);
  const work = flaky(4);
  queue.add('pod', work, onFailure);
  for (const [pause, tries] of [
    [100, 1],
    [200, 2],
    [400, 3],
    [400, 4],
    [400, 5],
  ] as const) {
    assert.equal(queue.pending, 1);
    await pass(pause - 1);
    assert.equal(work.tries, tries - 1, `not before ${pause} ms`);
    await pass(1);
    assert.equal(work.tries, tries);
  }
  assert.equal(queue.pending, 0);
  assert.deepEqual(outcomes, ['error', 'error', 'error', 'error', 'ok']);
  assert.deepEqual(failures, [
    ['failure 1', 1],
    ['failure 2', 2],
    ['failure 3', 3],
    ['failure 4', 4],
  ]);
  await pass(10_000);
  assert.equal(work.tries, 5, 'nothing after success');
});

test('a first delay of its own, and the usual pauses after it', async (t) => {
  const { queue, onFailure, pass } = make(t);
  const work = flaky(1);
  queue.add('pod', work, onFailure, 0);
  await pass(0);
  assert.equal(work.tries, 1);
  await pass(199);
  assert.equal(work.tries, 1);
  await pass(1);
  assert.equal(work.tries, 2);
  assert.equal(queue.pending, 0);
});

test('an id that waits already keeps its first work', async (t) => {
  const { queue, onFailure, pass } = make(t);
  const first = flaky(0);
  const second = flaky(0);
  queue.add('pod', first, onFailure);
  queue.add('pod', second, onFailure, 0);
  assert.equal(queue.pending, 1);
  await pass(100);
  assert.deepEqual([first.tries, second.tries], [1, 0]);
});

test('an id counts as pending while its work runs, and takes no second work then', async (t) => {
  const { queue, onFailure, pass } = make(t);
  const gate = Promise.withResolvers<void>();
  const second = flaky(0);
  queue.add('pod', () => gate.promise, onFailure, 0);
  await pass(0);
  assert.equal(queue.pending, 1);
  queue.add('pod', second, onFailure, 0);
  await pass(1000);
  assert.equal(second.tries, 0);
  gate.resolve();
  await turn();
  assert.equal(queue.pending, 0);
});

test('what is dropped is not tried any more', async (t) => {
  const { queue, onFailure, pass } = make(t);
  const work = flaky(9);
  queue.add('pod', work, onFailure);
  queue.drop('pod');
  queue.drop('nobody');
  assert.equal(queue.pending, 0);
  await pass(10_000);
  assert.equal(work.tries, 0);
});

test('what is dropped while it runs is not tried again when it fails', async (t) => {
  const { queue, onFailure, pass } = make(t);
  const gate = Promise.withResolvers<void>();
  let tries = 0;
  const work = () => {
    tries++;
    return gate.promise;
  };
  queue.add('pod', work, onFailure, 0);
  await pass(0);
  queue.drop('pod');
  gate.reject(new Error('too late'));
  await turn();
  await pass(10_000);
  assert.equal(tries, 1);
  assert.equal(queue.pending, 0);
});

test('work added after a drop is not forgotten when the dropped one ends', async (t) => {
  const { queue, onFailure, pass } = make(t);
  const gate = Promise.withResolvers<void>();
  queue.add('pod', () => gate.promise, onFailure, 0);
  await pass(0);
  queue.drop('pod');
  const next = flaky(0);
  queue.add('pod', next, onFailure);
  gate.resolve();
  await turn();
  assert.equal(queue.pending, 1);
  await pass(100);
  assert.equal(next.tries, 1);
});

test('ids are tried independently of each other', async (t) => {
  const { queue, onFailure, pass } = make(t);
  const stuck = () => new Promise<void>(() => {});
  const work = flaky(0);
  queue.add('stuck', stuck, onFailure, 0);
  queue.add('pod', work, onFailure, 0);
  await pass(0);
  assert.equal(work.tries, 1);
  assert.equal(queue.pending, 1);
});

test('disposal ends all retries', async (t) => {
  const { queue, onFailure, pass } = make(t);
  const work = flaky(9);
  queue.add('a', work, onFailure);
  queue.add('b', work, onFailure, 0);
  queue[Symbol.dispose]();
  assert.equal(queue.pending, 0);
  await pass(10_000);
  assert.equal(work.tries, 0);
});

test('a failure that cannot be noted is reported, and the work is tried again', async (t) => {
  mock.timers.enable({ apis: ['setTimeout'] });
  t.after(() => mock.timers.reset());
  const problems: string[] = [];
  using queue = new RetryQueue({
    firstDelayMs: 100,
    lastDelayMs: 400,
    onProblem: (id, error) => void problems.push(`${id}: ${(error as Error).message}`),
  });
  const work = flaky(1);
  queue.add('pod', work, () => {
    throw new Error('the row cannot be written');
  });
  for (const ms of [100, 200]) {
    mock.timers.tick(ms);
    await turn();
  }
  assert.deepEqual(problems, ['pod: the row cannot be written']);
  assert.equal(work.tries, 2);
  assert.equal(queue.pending, 0);
});
