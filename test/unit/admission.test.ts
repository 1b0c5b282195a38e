import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { codeOf } from '../../src/errors.ts';
import { Admission } from '../../src/pipeline/engine/admission.ts';
import type { Verdict } from '../../src/stages.ts';

const hold = () => Promise.withResolvers<void>();

function make(maxRunning: number, maxQueued: number) {
  const verdicts: Verdict[] = [];
  const admission = new Admission({
    maxRunning: { launch: maxRunning, teardown: maxRunning, image: maxRunning },
    maxQueued,
    onVerdict: (_lane, verdict) => verdicts.push(verdict),
  });
  return { admission, verdicts };
}

test('a job beyond max_running and max_queued is refused at once, with the queue in the message', async () => {
  const { admission, verdicts } = make(1, 1);
  const gate = hold();
  const first = admission.run({ lane: 'launch', priority: 0 }, () => gate.promise);
  const second = admission.run({ lane: 'launch', priority: 0 }, async () => 'second');
  await assert.rejects(
    admission.run({ lane: 'launch', priority: 0 }, async () => 'third'),
    (error) => codeOf(error) === 'QUEUE_FULL' && /1 running, 1 queued/.test((error as Error).message),
  );
  gate.resolve();
  await first;
  assert.equal(await second, 'second');
  assert.deepEqual(verdicts, ['admitted', 'queued', 'refused', 'admitted']);
});

test('whoever wants to know hears of a job that runs, and of its end, however it ends', async () => {
  const heard: string[] = [];
  const admission = new Admission({
    maxRunning: { launch: 1, teardown: 1, image: 1 },
    maxQueued: 1,
    onRun: (lane) => {
      if (lane !== 'launch') return undefined;
      heard.push('begins');
      return { [Symbol.dispose]: () => heard.push('ends') };
    },
  });
  const gate = hold();
  const first = admission.run({ lane: 'launch', priority: 0 }, () => gate.promise);
  const fails = admission.run({ lane: 'launch', priority: 0 }, () => Promise.reject(new Error('failed')));
  await assert.rejects(
    admission.run({ lane: 'launch', priority: 0 }, async () => {}),
    { code: 'QUEUE_FULL' },
  );
  await admission.run({ lane: 'teardown', priority: 0 }, async () => {});
  assert.deepEqual(heard, ['begins']);
  gate.resolve();
  await first;
  await assert.rejects(fails, /failed/);
  assert.deepEqual(heard, ['begins', 'ends', 'begins', 'ends']);
});

test('teardowns do not wait behind launches', async () => {
  const { admission } = make(1, 0);
  const gate = hold();
  const launch = admission.run({ lane: 'launch', priority: 0 }, () => gate.promise);
  assert.equal(await admission.run({ lane: 'teardown', priority: 0 }, async () => 'stopped'), 'stopped');
  gate.resolve();
  await launch;
});

test('higher priorities overtake, equal ones keep their order', async () => {
  const { admission } = make(1, 10);
  const gate = hold();
  const order: string[] = [];
  const push = (name: string) => async () => {
    order.push(name);
  };
  const jobs = [
    admission.run({ lane: 'launch', priority: 0 }, () => gate.promise),
    admission.run({ lane: 'launch', priority: 0 }, push('a')),
    admission.run({ lane: 'launch', priority: 0 }, push('b')),
    admission.run({ lane: 'launch', priority: 10 }, push('dns')),
  ];
  gate.resolve();
  await Promise.all(jobs);
  assert.deepEqual(order, ['dns', 'a', 'b']);
});

for (const [reason, code] of [
  ['deadline', 'DEADLINE_PASSED'],
  ['cancelled', 'CALLER_GONE'],
] as const) {
  test(`a queued job whose caller left (${reason}) is dropped before any work and frees its place`, async () => {
    const { admission } = make(1, 1);
    const gate = hold();
    const running = admission.run({ lane: 'launch', priority: 0 }, () => gate.promise);
    const caller = new AbortController();
    let worked = false;
    const queued = admission.run({ lane: 'launch', priority: 0, abandoned: caller.signal }, async () => {
      worked = true;
    });
    caller.abort(reason);
    await assert.rejects(queued, (error) => codeOf(error) === code);
    assert.equal(admission.use.launch.queued, 0);
    gate.resolve();
    await running;
    await sleep(5);
    assert.equal(worked, false);
  });
}

test('a running job is not taken back when its caller leaves', async () => {
  const { admission } = make(1, 1);
  const gate = hold();
  const caller = new AbortController();
  const job = admission.run({ lane: 'launch', priority: 0, abandoned: caller.signal }, () =>
    gate.promise.then(() => 'done'),
  );
  await sleep(1);
  caller.abort('deadline');
  gate.resolve();
  assert.equal(await job, 'done');
});

test('close refuses new jobs and waits for those that run', async () => {
  const { admission } = make(1, 1);
  const gate = hold();
  let ended = false;
  const job = admission.run({ lane: 'launch', priority: 0 }, async () => {
    await gate.promise;
    ended = true;
  });
  const closing = admission.close();
  await assert.rejects(
    admission.run({ lane: 'launch', priority: 0 }, async () => {}),
    (error) => codeOf(error) === 'SHUTTING_DOWN',
  );
  gate.resolve();
  await closing;
  assert.equal(ended, true);
  await job;
});

test('a job whose caller has left before it came is dropped although there is room', async () => {
  const { admission, verdicts } = make(1, 1);
  let worked = false;
  const job = admission.run({ lane: 'launch', priority: 0, abandoned: AbortSignal.abort('deadline') }, async () => {
    worked = true;
  });
  await assert.rejects(job, (error) => codeOf(error) === 'DEADLINE_PASSED');
  assert.equal(worked, false);
  assert.deepEqual(verdicts, ['expired']);
  assert.equal(await admission.run({ lane: 'launch', priority: 0 }, async () => 'next'), 'next');
});

test('the verdict on a dropped job says why its caller left', async () => {
  const { admission, verdicts } = make(1, 2);
  const gate = hold();
  const running = admission.run({ lane: 'launch', priority: 0 }, () => gate.promise);
  const callers = [new AbortController(), new AbortController()];
  const queued = callers.map(({ signal }) =>
    admission.run({ lane: 'launch', priority: 0, abandoned: signal }, async () => {}),
  );
  callers[0]?.abort('cancelled');
  callers[1]?.abort('deadline');
  for (const job of queued) await assert.rejects(job);
  assert.deepEqual(verdicts, ['admitted', 'queued', 'queued', 'gone', 'expired']);
  gate.resolve();
  await running;
});

test('what a running job throws reaches its caller, also one that has left', async () => {
  const { admission } = make(1, 1);
  const gate = hold();
  const caller = new AbortController();
  const job = admission.run({ lane: 'launch', priority: 0, abandoned: caller.signal }, async () => {
    await gate.promise;
    throw new Error('no network');
  });
  await sleep(1);
  caller.abort('deadline');
  gate.resolve();
  await assert.rejects(job, /no network/);
});

test('each lane has its own limit, and says what it is used for', async () => {
  const admission = new Admission({ maxRunning: { launch: 1, teardown: 2, image: 3 }, maxQueued: 5 });
  const gate = hold();
  const jobs = (['launch', 'teardown', 'image'] as const).flatMap((lane) =>
    Array.from({ length: 3 }, () => admission.run({ lane, priority: 0 }, () => gate.promise)),
  );
  await sleep(1);
  assert.deepEqual(admission.use, {
    launch: { running: 1, queued: 2, limit: 1 },
    teardown: { running: 2, queued: 1, limit: 2 },
    image: { running: 3, queued: 0, limit: 3 },
  });
  gate.resolve();
  await Promise.all(jobs);
  assert.deepEqual(admission.use.launch, { running: 0, queued: 0, limit: 1 });
});

test('close lets what is queued run as well', async () => {
  const { admission } = make(1, 1);
  const gate = hold();
  const order: string[] = [];
  const running = admission.run({ lane: 'launch', priority: 0 }, () => gate.promise);
  const queued = admission.run({ lane: 'launch', priority: 0 }, async () => void order.push('queued'));
  const closing = admission.close().then(() => order.push('closed'));
  gate.resolve();
  await Promise.all([running, queued, closing]);
  assert.deepEqual(order, ['queued', 'closed']);
});

test('once closed, a full queue is no reason: the job is told that the daemon ends', async () => {
  const { admission, verdicts } = make(1, 0);
  const gate = hold();
  const running = admission.run({ lane: 'launch', priority: 0 }, () => gate.promise);
  assert.throws(() => admission.refuseWhenFull('launch'), { code: 'QUEUE_FULL' });
  const closed = admission.close();
  admission.refuseWhenFull('launch');
  await assert.rejects(
    admission.run({ lane: 'launch', priority: 0 }, async () => {}),
    { code: 'SHUTTING_DOWN' },
  );
  gate.resolve();
  await Promise.all([running, closed]);
  assert.deepEqual(verdicts, ['admitted', 'refused']);
});
