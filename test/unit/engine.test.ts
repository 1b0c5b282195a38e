import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { codeOf, explain, SluiceError } from '../../src/errors.ts';
import { Engine, JobError } from '../../src/pipeline/engine/engine.ts';
import { type JobObserver, NO_OBSERVER } from '../../src/pipeline/engine/observer.ts';
import { RetryQueue } from '../../src/pipeline/engine/retry-queue.ts';
import { type JobState, jobTable, required, type Stage, takeDown } from '../../src/pipeline/engine/stage.ts';
import { STAGE_NAMES, type StageName } from '../../src/stages.ts';
import { logJobs } from './job-log.ts';

interface Row {
  log: string[];
}

/** The engine only passes it on. */
const ctx = { services: 'of the test' };
type Context = typeof ctx;
const limits = (limit: number) =>
  Object.fromEntries(STAGE_NAMES.map((name) => [name, limit])) as Record<StageName, number>;
const engine = (limit = 10, observer: JobObserver = NO_OBSERVER) =>
  new Engine({ limits: limits(limit), observer, undoTimeoutMs: 50 });
const job = NO_OBSERVER.jobQueued({ job: 'RunPodSandbox' });

function stage(
  name: StageName,
  needs: StageName[],
  more: Partial<Stage<JobState<Row, Context>, Row, Context>> = {},
): Stage<JobState<Row, Context>, Row, Context> {
  return {
    name,
    needs,
    run: ({ row }) => void row.log.push(name),
    undo: (row) => void row.log.push(`-${name}`),
    ...more,
  };
}

const fail = (message: string) => () => {
  throw new SluiceError('CNI_FAILED', message);
};

test('stages start when their needs are done, branches side by side', async () => {
  const row: Row = { log: [] };
  const slow = async ({ row }: JobState<Row, Context>) => {
    row.log.push('network…');
    await sleep(20);
    row.log.push('network');
  };
  const table = jobTable('RunPodSandbox', [
    stage('reserve', []),
    stage('network', ['reserve'], { run: slow }),
    stage('shim', ['reserve']),
    stage('create', ['shim']),
    stage('ready', ['network', 'create']),
  ]);
  await engine().run(table, { ctx, row }, job, 0);
  assert.deepEqual(row.log, ['reserve', 'network…', 'shim', 'create', 'network', 'ready']);
});

test('a failure names its stage, waits for what runs, and undoes what was started and no more', async () => {
  const row: Row = { log: [] };
  const table = jobTable('RunPodSandbox', [
    stage('reserve', []),
    stage('netns', ['reserve']),
    stage('network', ['netns'], { run: fail('plugin bridge: no such bridge') }),
    stage('shim', ['reserve'], {
      run: async ({ row }) => {
        await sleep(20);
        row.log.push('shim');
      },
    }),
    stage('create', ['shim']),
  ]);
  await assert.rejects(engine().run(table, { ctx, row }, job, 0), (error: unknown) => {
    assert(error instanceof JobError);
    assert.equal(error.stage, 'network');
    assert.equal(codeOf(error), 'CNI_FAILED');
    assert.equal(explain(error), 'stage network: plugin bridge: no such bridge');
    assert.equal(error.stuck, undefined);
    return true;
  });
  assert.deepEqual(row.log.slice(0, 3), ['reserve', 'netns', 'shim']);
  assert(!row.log.includes('create') && !row.log.includes('-create'));
  assert(row.log.indexOf('-network') < row.log.indexOf('-netns'));
  assert.equal(row.log.at(-1), '-reserve');
});

test('an undo that fails keeps what it stands on, the rest is undone, and the job says that it is stuck', async () => {
  const row: Row = { log: [] };
  const table = jobTable('RunPodSandbox', [
    stage('reserve', []),
    stage('netns', ['reserve']),
    stage('network', ['netns'], { undo: fail('DEL failed') }),
    stage('shim', ['reserve']),
    stage('ready', ['network', 'shim'], { run: fail('boom'), undo: undefined }),
  ]);
  await assert.rejects(engine().run(table, { ctx, row }, job, 0), (error: unknown) => {
    assert(error instanceof JobError);
    assert.match(explain(error), /boom/);
    assert.match(explain(error.stuck), /undo of stage network: DEL failed/);
    return true;
  });
  assert(row.log.includes('-shim'));
  assert(!row.log.includes('-netns') && !row.log.includes('-reserve'));
});

test('an undo that never ends is given up after its own limit', async () => {
  const row: Row = { log: [] };
  const table = jobTable('RunPodSandbox', [
    stage('reserve', [], { run: fail('boom'), undo: () => new Promise(() => {}) }),
  ]);
  await assert.rejects(engine().run(table, { ctx, row }, job, 0), (error: unknown) => {
    assert(error instanceof JobError && codeOf(error.stuck) === 'TIMED_OUT');
    return true;
  });
});

test('a skipped stage lets the next ones go on, also on the way down', async () => {
  const row: Row = { log: [] };
  const table = jobTable('RunPodSandbox', [
    stage('reserve', []),
    stage('netns', ['reserve'], { skip: () => true }),
    stage('create', ['netns']),
    stage('ready', ['create'], { run: fail('boom') }),
  ]);
  await assert.rejects(engine().run(table, { ctx, row }, job, 0));
  assert.deepEqual(row.log, ['reserve', 'create', '-ready', '-create', '-reserve']);
});

test('a stage’s limit holds over all jobs', async () => {
  let running = 0;
  let most = 0;
  const run = async () => {
    most = Math.max(most, ++running);
    await sleep(5);
    running--;
  };
  const table = jobTable('RunPodSandbox', [stage('network', [], { run })]);
  const shared = engine(2);
  await Promise.all(Array.from({ length: 8 }, () => shared.run(table, { ctx, row: { log: [] } }, job, 0)));
  assert.equal(most, 2);
});

test('undo of a whole table takes the row alone and goes through all stages', async () => {
  const row: Row = { log: [] };
  const table = jobTable('RunPodSandbox', [
    stage('reserve', []),
    stage('netns', ['reserve']),
    stage('network', ['netns']),
  ]);
  await engine().undo(table, row, ctx, job);
  assert.deepEqual(row.log, ['-network', '-netns', '-reserve']);
});

test('takeDown turns a table round: each undo is a stage, in the opposite order', async () => {
  const row: Row = { log: [] };
  const table = jobTable('RunPodSandbox', [
    stage('reserve', []),
    stage('netns', ['reserve']),
    stage('shim', ['reserve']),
    stage('create', ['shim', 'netns'], { undo: undefined }),
    stage('ready', ['create'], { undo: undefined }),
  ]);
  const down = takeDown('RemovePodSandbox', table, { reserve: 'forget' });
  assert.deepEqual(
    down.stages.map(({ name, needs }) => [name, needs]),
    [
      ['shim', []],
      ['netns', []],
      ['forget', ['netns', 'shim']],
    ],
  );
  await engine().run(down, { ctx, row }, job, 0);
  assert.deepEqual(row.log, ['-shim', '-netns', '-reserve']);
});

test('a table whose needs come too late, or twice, is refused when it is made', () => {
  assert.throws(() => jobTable('RunPodSandbox', [stage('create', ['shim']), stage('shim', [])]), /needs shim/);
  assert.throws(() => jobTable('RunPodSandbox', [stage('shim', []), stage('shim', [])]), /twice/);
});

test('of two failures the first is the job’s, and both stages end with their own', async () => {
  const { observer, jobs } = logJobs();
  const row: Row = { log: [] };
  const later = async () => {
    await sleep(5);
    throw new SluiceError('SHIM_FAILED', 'the second failure');
  };
  const table = jobTable('RunPodSandbox', [
    stage('shim', [], { run: later }),
    stage('network', [], { run: fail('the first failure') }),
  ]);
  const run = observer.jobQueued({ job: 'RunPodSandbox' });
  await assert.rejects(engine(10, observer).run(table, { ctx, row }, run, 0), /network/);
  const ends = jobs[0]?.calls.filter((call) => call.startsWith('end '));
  assert.deepEqual(ends, ['end network!', 'end shim!']);
});

test('a stage that waits for its limit when another one fails is ready, and never started', async () => {
  const { observer, jobs } = logJobs();
  const shared = engine(1, observer);
  const gate = Promise.withResolvers<void>();
  const holder = jobTable('RunPodSandbox', [stage('shim', [], { run: () => gate.promise })]);
  const held = shared.run(holder, { ctx, row: { log: [] } }, observer.jobQueued({ job: 'RunPodSandbox' }), 0);
  const row: Row = { log: [] };
  const table = jobTable('RunPodSandbox', [stage('shim', []), stage('network', [], { run: fail('boom') })]);
  const failed = shared.run(table, { ctx, row }, observer.jobQueued({ job: 'RunPodSandbox' }), 0);
  await sleep(1);
  assert.deepEqual(shared.use('shim'), { running: 1, queued: 1, limit: 1 });
  gate.resolve();
  await held;
  await assert.rejects(failed, /network/);
  assert(jobs[1]?.calls.includes('ready shim') && !jobs[1].calls.includes('start shim'));
  assert.deepEqual(row.log, ['-network'], 'what was not started is not undone');
  assert.deepEqual(shared.use('shim'), { running: 0, queued: 0, limit: 1 });
});

test('in the queue of a stage the more urgent job goes first', async () => {
  const shared = engine(1);
  const gate = Promise.withResolvers<void>();
  const order: string[] = [];
  const launch = (name: string, priority: number, run: () => Promise<void> | void = () => void order.push(name)) =>
    shared.run(jobTable('RunPodSandbox', [stage('shim', [], { run })]), { ctx, row: { log: [] } }, job, priority);
  const jobs = [launch('holder', 0, () => gate.promise), launch('user', 0), launch('dns', 10)];
  await sleep(1);
  gate.resolve();
  await Promise.all(jobs);
  assert.deepEqual(order, ['dns', 'user']);
});

test('undo of a whole table throws what every failed undo says, with the first one’s code and stage', async () => {
  const row: Row = { log: [] };
  const table = jobTable('RunPodSandbox', [
    stage('reserve', []),
    stage('network', ['reserve'], { undo: fail('DEL failed') }),
    stage('shim', ['reserve'], { undo: fail('no answer') }),
  ]);
  await assert.rejects(engine().undo(table, row, ctx, job), (error: unknown) => {
    assert(error instanceof SluiceError);
    assert.equal(codeOf(error), 'CNI_FAILED');
    assert.equal(error.stage, 'shim');
    assert.match(error.message, /shim: no answer; .*network: DEL failed/);
    return true;
  });
  assert.deepEqual(row.log, []);
});

test('an undo that succeeds later finds nothing that keeps it', async () => {
  const row: Row = { log: [] };
  let refuses = true;
  const table = jobTable('RunPodSandbox', [
    stage('reserve', []),
    stage('network', ['reserve'], { undo: () => (refuses ? fail('DEL failed')() : undefined) }),
  ]);
  await assert.rejects(engine().undo(table, row, ctx, job));
  refuses = false;
  await engine().undo(table, row, ctx, job);
  assert.deepEqual(row.log, ['-reserve']);
});

test('takeDown: a stage without an undo passes on what it was built on, through several', () => {
  const bare = { undo: undefined };
  const table = jobTable('CreateContainer', [
    stage('reserve', []),
    stage('image', ['reserve'], bare),
    stage('user', ['image'], bare),
    stage('files', ['user']),
  ]);
  const down = takeDown('RemoveContainer', table, {});
  assert.equal(down.name, 'RemoveContainer');
  assert.deepEqual(
    down.stages.map(({ name, needs }) => [name, needs]),
    [
      ['files', []],
      ['reserve', ['files']],
    ],
  );
});

test('a field that an earlier stage sets is there, or the table lacks a need', () => {
  assert.equal(required('', 'spec'), '');
  assert.equal(required(0, 'pid'), 0);
  assert.throws(() => required(undefined, 'shim'), /the shim has not run/);
});

test('a stage that never ends is given up after its time limit, named, and everything started is undone', async () => {
  const row: Row = { log: [] };
  const table = jobTable('RunPodSandbox', [
    stage('reserve', []),
    stage('network', ['reserve'], { run: () => new Promise(() => {}) }),
    stage('ready', ['network']),
  ]);
  const options = { limits: limits(1), observer: NO_OBSERVER, undoTimeoutMs: 50, timeLimitsMs: { network: 20 } };
  const shared = new Engine(options);
  const failsInTime = (error: unknown) => {
    assert(error instanceof JobError);
    assert.equal(codeOf(error), 'TIMED_OUT');
    assert.equal(explain(error), 'stage network: no end within 0.02 s');
    return true;
  };
  await assert.rejects(shared.run(table, { ctx, row }, job, 0), failsInTime);
  assert.deepEqual(row.log, ['reserve', '-network', '-reserve']);
  assert.equal(shared.use('network').running, 0, 'its place is free');
  await assert.rejects(shared.run(table, { ctx, row: { log: [] } }, job, 0), failsInTime);
});

for (const [how, end] of [
  ['success', () => {}],
  ['failure', fail('late as well')],
] as const) {
  test(`a given-up stage that ends with ${how} after all is undone again, as a clean-up of its own`, async () => {
    const row: Row = { log: [] };
    const { promise: hangs, resolve: wake } = Promise.withResolvers<void>();
    const table = jobTable('RunPodSandbox', [
      stage('reserve', []),
      stage('netns', ['reserve'], {
        run: async ({ row }) => {
          await hangs;
          row.log.push('netns');
          end();
        },
      }),
    ]);
    const seen: string[] = [];
    const observer: JobObserver = {
      ...NO_OBSERVER,
      jobQueued: (start) => {
        if (start.origin) seen.push(`${start.job} ${start.origin} of ${start.sandbox}`);
        return { ...start, id: '1' };
      },
      jobEnded: (_job, error) => void seen.push(`ended ${error ? explain(error) : 'well'}`),
    };
    const options = { limits: limits(1), observer, undoTimeoutMs: 50, timeLimitsMs: { netns: 20 } };
    const pod = { ...job, sandbox: 'pod' };
    await assert.rejects(new Engine(options).run(table, { ctx, row }, pod, 0), { code: 'TIMED_OUT' });
    assert.deepEqual(row.log, ['reserve', '-netns', '-reserve']);
    assert.deepEqual(seen, []);
    wake();
    await sleep(5);
    assert.deepEqual(row.log, ['reserve', '-netns', '-reserve', 'netns', '-netns']);
    assert.deepEqual(seen, ['RunPodSandbox cleanup of pod', 'ended well']);
  });
}

test('the undo of a late end is tried until it succeeds', async () => {
  const row: Row = { log: [] };
  const { promise: hangs, resolve: wake } = Promise.withResolvers<void>();
  let undos = 0;
  const undo = () => {
    if (++undos === 2) throw new SluiceError('CNI_FAILED', 'DEL failed');
  };
  const table = jobTable('RunPodSandbox', [stage('network', [], { run: () => hangs, undo })]);
  using retries = new RetryQueue({ firstDelayMs: 5, lastDelayMs: 10 });
  const options = {
    limits: limits(1),
    observer: NO_OBSERVER,
    undoTimeoutMs: 50,
    timeLimitsMs: { network: 10 },
    retries,
  };
  await assert.rejects(new Engine(options).run(table, { ctx, row }, job, 0), { code: 'TIMED_OUT' });
  assert.equal(undos, 1);
  wake();
  await sleep(60);
  assert.equal(undos, 3, 'the first in time, one that failed, and its retry');
  assert.equal(retries.pending, 0);
});

test('what hangs gives its place to the next long before its time limit', async () => {
  const { promise: hangs, resolve: wake } = Promise.withResolvers<void>();
  let first = true;
  const run = () => {
    if (!first) return;
    first = false;
    return hangs;
  };
  const table = jobTable('StartContainer', [stage('create', [], { run })]);
  const shared = new Engine({ limits: limits(1), observer: NO_OBSERVER, undoTimeoutMs: 50, leaseMs: 20 });
  const hung = shared.run(table, { ctx, row: { log: [] } }, job, 0);
  await shared.run(table, { ctx, row: { log: [] } }, job, 0);
  assert.deepEqual(shared.use('create'), { running: 1, queued: 0, limit: 1 }, 'it still counts as running');
  wake();
  await hung;
  assert.equal(shared.use('create').running, 0);
});

test('the time that a caller adds counts: the grace period of a container', async () => {
  const table = jobTable('StopContainer', [
    stage('kill', [], { run: () => sleep(60).then(() => {}), extraSeconds: () => 1 }),
  ]);
  const options = { limits: limits(1), observer: NO_OBSERVER, undoTimeoutMs: 50, timeLimitsMs: { kill: 20 } };
  await new Engine(options).run(table, { ctx, row: { log: [] } }, job, 0);
});
