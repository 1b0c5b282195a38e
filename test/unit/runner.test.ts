import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { codeOf, SluiceError } from '../../src/errors.ts';
import { Admission } from '../../src/pipeline/engine/admission.ts';
import { Engine } from '../../src/pipeline/engine/engine.ts';
import type { JobRun } from '../../src/pipeline/engine/observer.ts';
import { RetryQueue } from '../../src/pipeline/engine/retry-queue.ts';
import { Runner } from '../../src/pipeline/engine/runner.ts';
import { type JobState, jobTable } from '../../src/pipeline/engine/stage.ts';
import { STAGE_NAMES, type StageName } from '../../src/stages.ts';
import { logJobs } from './job-log.ts';

interface Row {
  log: string[];
}
type State = JobState<Row, null>;

function make({ maxRunning = 1, maxQueued = 10 } = {}) {
  const log = logJobs();
  const { observer } = log;
  const limits = Object.fromEntries(STAGE_NAMES.map((name) => [name, 10])) as Record<StageName, number>;
  const engine = new Engine({ limits, observer, undoTimeoutMs: 50 });
  const admission = new Admission({
    maxRunning: { launch: maxRunning, teardown: maxRunning, image: maxRunning },
    maxQueued,
  });
  return { runner: new Runner({ engine, observer, admission }), log };
}

const LAUNCH = { start: { job: 'RunPodSandbox' }, priority: 0, admit: {} } as const;

/** Reserves, then fails if asked to; its undo throws what `stuck` says. */
const table = ({ fails, stuck }: { fails?: string; stuck?: () => string | undefined } = {}) =>
  jobTable<State, Row, null>('RunPodSandbox', [
    {
      name: 'reserve',
      needs: [],
      run: ({ row }) => void row.log.push('reserve'),
      undo: (row) => {
        const reason = stuck?.();
        if (reason !== undefined) throw new SluiceError('CNI_FAILED', reason);
        row.log.push('-reserve');
      },
    },
    {
      name: 'ready',
      needs: ['reserve'],
      run: () => {
        if (fails !== undefined) throw new SluiceError('CNI_FAILED', fails);
      },
    },
  ]);

test('a job is queued, started, run and ended, in this order', async () => {
  const { runner, log } = make();
  await runner.run(table(), { ctx: null, row: { log: [] } }, LAUNCH);
  assert.deepEqual(
    log.jobs.map(({ calls }) => calls),
    [
      [
        'queued',
        'started',
        'ready reserve',
        'start reserve',
        'end reserve',
        'ready ready',
        'start ready',
        'end ready',
        'ended',
      ],
    ],
  );
});

test('a failed job ends after its undo, with the error that its caller gets', async () => {
  const { runner, log } = make();
  const row: Row = { log: [] };
  const failure = await runner.run(table({ fails: 'no bridge' }), { ctx: null, row }, LAUNCH).catch((error) => error);
  assert.equal(codeOf(failure), 'CNI_FAILED');
  assert.deepEqual(row.log, ['reserve', '-reserve']);
  assert.deepEqual(log.jobs[0]?.calls.slice(-4), ['end ready!', 'undo reserve', 'undone reserve', 'ended!']);
  assert.equal(log.jobs[0]?.error, failure);
});

test('what the work gives is the job’s result, and what it throws its error, also when that is no Error', async () => {
  const { runner, log } = make();
  assert.equal(await runner.job(LAUNCH, async () => 'id'), 'id');
  await assert.rejects(
    runner.job(LAUNCH, () => Promise.reject('a string')),
    (thrown) => thrown === 'a string',
  );
  assert.match(String(log.jobs[1]?.error), /a string/);
  log.assertClosed();
});

test('a refused job is none', async () => {
  const { runner, log } = make({ maxRunning: 1, maxQueued: 0 });
  const gate = Promise.withResolvers<void>();
  const running = runner.job(LAUNCH, () => gate.promise);
  let worked = false;
  const refused = runner.job(LAUNCH, async () => {
    worked = true;
  });
  await assert.rejects(refused, (error) => codeOf(error) === 'QUEUE_FULL');
  assert.equal(worked, false);
  assert.throws(() => runner.refuseWhenFull(LAUNCH.start), { code: 'QUEUE_FULL' });
  assert.deepEqual(log.refused, [LAUNCH.start, LAUNCH.start]);
  assert.equal(log.jobs.length, 1);
  gate.resolve();
  await running;
  log.assertClosed();
});

test('a job whose caller leaves the queue ends without having started', async () => {
  const { runner, log } = make();
  const gate = Promise.withResolvers<void>();
  const running = runner.job(LAUNCH, () => gate.promise);
  const caller = new AbortController();
  const queued = runner.job({ ...LAUNCH, admit: { abandoned: caller.signal } }, async () => {});
  caller.abort('deadline');
  await assert.rejects(queued, (error) => codeOf(error) === 'DEADLINE_PASSED');
  assert.deepEqual(log.jobs[1]?.calls, ['queued', 'ended!']);
  gate.resolve();
  await running;
});

test('the handle is handed out while the job is still queued', async () => {
  const { runner } = make();
  const gate = Promise.withResolvers<void>();
  const running = runner.job(LAUNCH, () => gate.promise);
  let handle: JobRun | undefined;
  const onQueued = (job: JobRun) => {
    handle = job;
  };
  const queued = runner.job({ ...LAUNCH, onQueued }, async (job) => job);
  assert.ok(handle, 'before it is admitted');
  gate.resolve();
  assert.equal(await queued, handle);
  await running;
});

test('a job queues in the lane of its name', async () => {
  const { runner } = make({ maxRunning: 1, maxQueued: 0 });
  const gate = Promise.withResolvers<void>();
  const launch = runner.job(LAUNCH, () => gate.promise);
  const stop = { ...LAUNCH, start: { job: 'StopPodSandbox' } } as const;
  assert.equal(await runner.job(stop, async () => 'stopped'), 'stopped');
  gate.resolve();
  await launch;
});

test('a job that is part of another takes no place and is not refused', async () => {
  const { runner, log } = make({ maxRunning: 1, maxQueued: 0 });
  const part = { start: { job: 'StopPodSandbox' }, priority: 0 } as const;
  const remove = { start: { job: 'RemovePodSandbox' }, priority: 0, admit: {} } as const;
  const result = await runner.job(remove, () => runner.job(part, async () => 'done'));
  assert.equal(result, 'done');
  assert.deepEqual(
    log.jobs.map(({ start, calls }) => [start.job, calls]),
    [
      ['RemovePodSandbox', ['queued', 'started', 'ended']],
      ['StopPodSandbox', ['queued', 'started', 'ended']],
    ],
  );
});

test('an undo is one job with one record, also when it fails', async () => {
  const { runner, log } = make();
  const row: Row = { log: [] };
  const start = { job: 'RunPodSandbox', origin: 'cleanup' } as const;
  await assert.rejects(runner.undo(table({ stuck: () => 'DEL failed' }), row, null, start), /undo of stage reserve/);
  await runner.undo(table(), row, null, start);
  assert.deepEqual(
    log.jobs.map(({ calls }) => calls),
    [
      ['queued', 'started', 'undo reserve', 'undone reserve!', 'ended!'],
      ['queued', 'started', 'undo reserve', 'undone reserve', 'ended'],
    ],
  );
});

test('a clean-up that is retried starts and ends one record for each try', async () => {
  const { runner, log } = make();
  const row: Row = { log: [] };
  const reasons = ['still busy', 'busy', undefined];
  let tries = 0;
  const stuck = table({ stuck: () => reasons[tries++] });
  using retries = new RetryQueue({ firstDelayMs: 1, lastDelayMs: 1 });
  const failures: string[] = [];
  const start = { job: 'RunPodSandbox', origin: 'cleanup' } as const;
  retries.add(
    'pod',
    () => runner.undo(stuck, row, null, start),
    (reason) => failures.push(reason),
  );
  while (retries.pending > 0) await sleep(1);
  assert.equal(tries, 3);
  assert.deepEqual(failures, ['undo of stage reserve: still busy', 'undo of stage reserve: busy']);
  assert.deepEqual(row.log, ['-reserve']);
  log.assertClosed();
  assert.deepEqual(
    log.jobs.map(({ calls }) => calls.at(-1)),
    ['ended!', 'ended!', 'ended'],
  );
});

test('a job whose handle cannot be handed out still ends', async () => {
  const { runner, log } = make();
  const onQueued = () => {
    throw new Error('nobody there');
  };
  await assert.rejects(
    runner.job({ ...LAUNCH, onQueued }, async () => {}),
    /nobody there/,
  );
  log.assertClosed();
});
