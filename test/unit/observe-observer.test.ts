import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SluiceError } from '../../src/errors.ts';
import { JobHistory } from '../../src/node/observe/job-history.ts';
import { createLog } from '../../src/node/observe/log.ts';
import { Metrics } from '../../src/node/observe/metrics.ts';
import { type JobTracer, Observer } from '../../src/node/observe/observer.ts';

function setUp(tracer?: JobTracer, ring = 1000) {
  const lines: Record<string, unknown>[] = [];
  const log = createLog({ level: 'info', stream: { write: (line) => void lines.push(JSON.parse(line)) } });
  const metrics = new Metrics({
    stages: [
      ['RunPodSandbox', 'reserve'],
      ['RunPodSandbox', 'netns'],
    ],
    version: '1',
  });
  const history = new JobHistory(ring);
  return { lines, log, metrics, history, observer: new Observer({ metrics, history, log, tracer }) };
}

type SetUp = ReturnType<typeof setUp>;

function runStage(
  { observer }: SetUp,
  job: ReturnType<Observer['jobQueued']>,
  stage: 'reserve' | 'netns',
  error?: Error,
) {
  observer.stageReady(job, stage);
  observer.stageStarted(job, stage);
  observer.stageEnded(job, stage, error);
}

async function count(metrics: Metrics, series: string): Promise<string | undefined> {
  const line = (await metrics.text()).split('\n').find((one) => one.startsWith(`${series} `));
  return line?.slice(series.length + 1);
}

test('a launch becomes one log line, one record and its metrics', async () => {
  const it = setUp();
  using _ = it.metrics;
  const job = it.observer.jobQueued({ job: 'RunPodSandbox', pod: 'default/web' });
  assert.match(job.id, /^[\da-f]{16}$/);
  assert.deepEqual(
    it.history.running.map(({ pod }) => pod),
    ['default/web'],
  );
  it.observer.jobStarted(job);
  job.sandbox = 'abcdef';
  runStage(it, job, 'reserve');
  runStage(it, job, 'netns');
  it.observer.jobEnded(job, undefined);
  it.observer.jobEnded(job, undefined);

  assert.equal(it.lines.length, 1);
  const [line] = it.lines;
  assert.equal(line?.message, 'RunPodSandbox done');
  assert.equal(line?.request, job.id);
  assert.equal(line?.sandbox, 'abcdef');
  assert.deepEqual(Object.keys(line?.stages as object), ['reserve', 'netns']);
  assert.equal(it.history.running.length, 0);
  const [record] = it.history.find({ match: 'default/web' });
  assert.equal(record?.outcome, 'ok');
  assert.ok((record?.ended ?? -1) >= (record?.stages[1]?.ended ?? 0));
  assert.equal(await count(it.metrics, 'sluice_job_duration_seconds_count{job="RunPodSandbox",outcome="ok"}'), '1');
  assert.equal(await count(it.metrics, 'sluice_stage_queue_seconds_count{job="RunPodSandbox",stage="admit"}'), '1');
  assert.equal(
    await count(it.metrics, 'sluice_stage_duration_seconds_count{job="RunPodSandbox",stage="netns",outcome="ok"}'),
    '1',
  );
});

test('a failure names its stage, keeps the chain of causes, and the undos are counted', async () => {
  const it = setUp();
  using _ = it.metrics;
  const job = it.observer.jobQueued({ job: 'RunPodSandbox', pod: 'a/b' });
  it.observer.jobStarted(job);
  runStage(it, job, 'reserve');
  const error = new SluiceError('NAMESPACE_FAILED', 'stage netns', { cause: new Error('unshare: EPERM') });
  runStage(it, job, 'netns', error);
  it.observer.undoStarted(job, 'netns');
  it.observer.undoEnded(job, 'netns', undefined);
  it.observer.undoStarted(job, 'reserve');
  it.observer.undoEnded(job, 'reserve', new Error('disk'));
  it.observer.jobEnded(job, error);
  const [line] = it.lines;
  assert.equal(line?.level, 'warn');
  assert.equal(line?.stage, 'netns');
  assert.equal(line?.code, 'NAMESPACE_FAILED');
  assert.equal(line?.error, 'stage netns: unshare: EPERM');
  assert.deepEqual(Object.keys(line?.undos as object), ['netns', 'reserve']);
  assert.equal(await count(it.metrics, 'sluice_undo_duration_seconds_count{stage="netns",outcome="ok"}'), '1');
  assert.equal(await count(it.metrics, 'sluice_undo_duration_seconds_count{stage="reserve",outcome="error"}'), '1');
  assert.equal(await count(it.metrics, 'sluice_job_duration_seconds_count{job="RunPodSandbox",outcome="error"}'), '1');
});

test('of refusals that follow each other one a second is logged, with how many there were before; none is kept', async (t) => {
  let now = 0;
  t.mock.method(performance, 'now', () => now);
  const it = setUp();
  using _ = it.metrics;
  const start = { job: 'RunPodSandbox', pod: 'a/b' } as const;
  const refuse = () => it.observer.jobRefused(start, new SluiceError('QUEUE_FULL', 'the launch queue is full'));
  for (let i = 0; i < 50; i++) refuse();
  assert.deepEqual(
    it.lines.map(({ pod, code, alike }) => ({ pod, code, alike })),
    [{ pod: 'a/b', code: 'QUEUE_FULL', alike: undefined }],
  );
  now += 1000;
  refuse();
  now += 1000;
  refuse();
  assert.deepEqual(
    it.lines.map(({ alike }) => alike),
    [undefined, 49, undefined],
  );
  assert.equal(it.history.find({}).length, 0);
  assert.equal(await count(it.metrics, 'sluice_job_duration_seconds_count{job="RunPodSandbox",outcome="error"}'), '0');
  // What fails for another reason always has its line.
  const job = it.observer.jobQueued({ job: 'RunPodSandbox', pod: 'a/b' });
  it.observer.jobEnded(job, new SluiceError('DEADLINE_PASSED', 'late'));
  assert.equal(it.lines.length, 4);
});

test('clean-ups and recoveries do not count as launches', async () => {
  const it = setUp();
  using _ = it.metrics;
  const job = it.observer.jobQueued({ job: 'RunPodSandbox', origin: 'cleanup', pod: 'a/b' });
  it.observer.jobStarted(job);
  it.observer.jobEnded(job, undefined);
  assert.equal(it.lines[0]?.message, 'cleanup of RunPodSandbox done');
  assert.equal(await count(it.metrics, 'sluice_job_duration_seconds_count{job="RunPodSandbox",outcome="ok"}'), '0');
  assert.deepEqual(it.history.find({ job: 'RunPodSandbox' }), []);
  assert.equal(it.history.find({}).length, 1);
});

test('a second caller of the same launch counts as joined', async () => {
  const it = setUp();
  using _ = it.metrics;
  const job = it.observer.jobQueued({ job: 'RunPodSandbox', pod: 'a/b' });
  it.observer.jobJoined(job);
  assert.equal(await count(it.metrics, 'sluice_admission_total{lane="launch",verdict="joined"}'), '1');
  it.observer.jobEnded(job, undefined);
  assert.equal(it.lines[0]?.joined, 1);
});

test('the history keeps the newest pod launches, however many other jobs there are', () => {
  const it = setUp(undefined, 3);
  using _ = it.metrics;
  for (let i = 0; i < 5; i++) {
    const launch = it.observer.jobQueued({ job: 'RunPodSandbox', pod: `ns/pod-${i}` });
    it.observer.jobEnded(launch, undefined);
    for (let k = 0; k < 4; k++)
      it.observer.jobEnded(it.observer.jobQueued({ job: 'StopContainer', pod: `ns/pod-${i}` }), undefined);
  }
  const flying = it.observer.jobQueued({ job: 'RunPodSandbox', pod: 'ns/now' });
  const pods = it.history.find({ job: 'RunPodSandbox' }).map(({ pod }) => pod);
  assert.deepEqual(pods, ['ns/now', 'ns/pod-4', 'ns/pod-3', 'ns/pod-2']);
  assert.equal(it.history.find({ limit: 2 }).length, 2);
  assert.equal(it.history.find({ match: flying.id.slice(0, 8) })[0]?.pod, 'ns/now');
});

test('the tracer provides the trace id and receives the whole record', () => {
  const ended: unknown[] = [];
  const it = setUp({
    traceId: (parent) => (parent === 'tp' ? 'f'.repeat(32) : undefined),
    ended: (record) => ended.push(record),
  });
  using _ = it.metrics;
  const job = it.observer.jobQueued({ job: 'RunPodSandbox', traceparent: 'tp' });
  it.observer.jobStarted(job);
  runStage(it, job, 'reserve');
  it.observer.jobEnded(job, undefined);
  assert.equal(it.lines[0]?.trace, 'f'.repeat(32));
  assert.equal(ended.length, 1);
});
