import assert from 'node:assert/strict';
import { request } from 'node:http';
import { test } from 'node:test';
import type { JobShape } from '../../src/node/observe/job-record.ts';
import { createLog } from '../../src/node/observe/log.ts';
import { createObservability } from '../../src/node/observe/observability.ts';
import { STAGES } from '../../src/stages.ts';

const JOBS: JobShape[] = [
  {
    name: 'RunPodSandbox',
    stages: [
      { name: 'reserve', needs: [] },
      { name: 'netns', needs: ['reserve'] },
    ],
  },
];

async function setUp(listen = '127.0.0.1:0', health?: () => string[]) {
  const lines: string[] = [];
  const log = createLog({ level: 'info', stream: { write: (line) => void lines.push(line) } });
  const all = createObservability({
    config: {
      metrics: { listen, containerd_names: false },
      tracing: { endpoint: '' },
      log: { level: 'info', max_container_line: 16384 },
    },
    jobs: JOBS,
    log,
    health,
  });
  const port = await all.server.listen();
  return {
    ...all,
    all,
    lines,
    url: `http://127.0.0.1:${port}`,
    [Symbol.asyncDispose]: () => all[Symbol.asyncDispose](),
  };
}

test('/metrics answers in the accepted format, with gzip if accepted', async () => {
  await using it = await setUp();
  const plain = await fetch(`${it.url}/metrics`, { headers: { 'accept-encoding': 'identity' } });
  assert.equal(plain.headers.get('content-type'), 'text/plain; version=0.0.4; charset=utf-8');
  assert.equal(plain.headers.get('content-encoding'), null);
  assert.match(await plain.text(), /^# HELP sluice_job_duration_seconds /);
  const accept = 'application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5';
  const open = await fetch(`${it.url}/metrics`, { headers: { accept, 'accept-encoding': 'gzip' } });
  assert.match(open.headers.get('content-type') ?? '', /^application\/openmetrics-text; version=1.0.0/);
  assert.equal(open.headers.get('content-encoding'), 'gzip');
  assert.ok((await open.text()).endsWith('# EOF\n'));
});

test('/debug shows jobs, launches and tables; invalid requests get an error text', async () => {
  await using it = await setUp();
  const job = it.observer.jobQueued({ job: 'RunPodSandbox', pod: 'default/web' });
  it.observer.jobStarted(job);
  it.observer.stageReady(job, 'reserve');
  const get = async (path: string) => (await fetch(`${it.url}${path}`)).json();
  const { jobs } = (await get('/debug/jobs')) as { jobs: { pod: string; stages: unknown[] }[] };
  assert.equal(jobs[0]?.pod, 'default/web');
  assert.equal(jobs[0]?.stages.length, 1);
  it.observer.jobEnded(job, undefined);
  const { launches } = (await get('/debug/launches?job=RunPodSandbox&match=default/w&limit=5')) as {
    launches: { id: string }[];
  };
  assert.equal(launches[0]?.id, job.id);
  assert.deepEqual(await get('/debug/tables'), {
    jobs: JOBS.map(({ name, stages }) => ({
      name,
      stages: stages.map((stage) => ({ ...stage, pool: STAGES[stage.name].pool })),
    })),
  });
  const memory = (await get('/debug/memory')) as { proportional: number; rss: number };
  assert.ok(memory.proportional > 1e6 && memory.proportional <= memory.rss * 1.1);
  for (const [path, status] of [
    ['/debug/launches?job=Nope', 400],
    ['/debug/launches?limit=-1', 400],
    ['/debug/nope', 404],
    ['/nope', 404],
  ] as const) {
    const answer = await fetch(`${it.url}${path}`);
    assert.equal(answer.status, status, path);
    assert.ok((await answer.text()).length > 5);
  }
  assert.equal((await fetch(`${it.url}/metrics`, { method: 'POST' })).status, 405);
});

test('/healthz gives the reasons', async () => {
  let reasons: string[] = [];
  await using it = await setUp('127.0.0.1:0', () => reasons);
  assert.equal((await fetch(`${it.url}/healthz`)).status, 200);
  reasons = ['still finding pods again'];
  const answer = await fetch(`${it.url}/healthz`);
  assert.equal(answer.status, 503);
  assert.equal(await answer.text(), 'still finding pods again\n');
});

test('the log level is changed by PUT with the header and by SIGUSR2 only', async () => {
  await using it = await setUp();
  const put = (level: string, headers: Record<string, string> = {}) =>
    fetch(`${it.url}/debug/log-level?level=${level}`, { method: 'PUT', headers });
  assert.equal((await put('debug')).status, 403);
  assert.equal(it.log.currentLevel, 'info');
  assert.equal((await put('loud', { 'x-sluice': '1' })).status, 400);
  assert.equal((await put('warn', { 'x-sluice': '1' })).status, 200);
  assert.equal(it.log.currentLevel, 'warn');
  assert.equal(JSON.parse(it.lines.at(-1) ?? '').to, 'warn');
  process.report.reportOnSignal = false; // `node --test` turns it on, for the same signal
  process.kill(process.pid, 'SIGUSR2');
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal(it.log.currentLevel, 'debug');
});

test('a foreign Host header (DNS rebinding) gets no /debug', async () => {
  await using it = await setUp();
  const { promise, resolve, reject } = Promise.withResolvers<number | undefined>();
  request(`${it.url}/debug/jobs`, { headers: { host: 'evil.example' } }, (response) => {
    response.resume();
    resolve(response.statusCode);
  })
    .on('error', reject)
    .end();
  assert.equal(await promise, 403);
});

test('a malformed address and one in use are errors of the configuration', async () => {
  await using it = await setUp();
  const taken = it.url.slice('http://'.length);
  await assert.rejects(setUp(taken), (error: Error & { code?: string }) => {
    assert.equal(error.code, 'CONFIG_INVALID');
    assert.match(error.message, /in use/);
    return true;
  });
  await assert.rejects(setUp('nonsense'), /is not host:port/);
});

test('a reload moves it, ends it, and begins it again; an address in use leaves it where it is', async () => {
  await using it = await setUp();
  await using other = await setUp();
  const ok = async (url: string) => (await fetch(`${url}/healthz`)).status;
  await assert.rejects(it.server.moveTo(other.url.slice('http://'.length)), { code: 'CONFIG_INVALID' });
  assert.equal(await ok(it.url), 200);
  await it.server.moveTo('');
  await assert.rejects(ok(it.url));
  await it.server.moveTo('127.0.0.1:0');
  assert.equal(await ok(`http://127.0.0.1:${it.server.port}`), 200);
});

test('an empty address: no endpoint, everything else works', async () => {
  await using it = await setUp('');
  assert.equal(await it.server.listen(), 0);
  it.observer.jobEnded(it.observer.jobQueued({ job: 'PullImage', image: 'x' }), undefined);
  assert.equal(it.lines.length, 1);
});
