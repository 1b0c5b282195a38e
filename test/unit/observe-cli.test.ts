import assert from 'node:assert/strict';
import { readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { SluiceError } from '../../src/errors.ts';
import { ganttText } from '../../src/main/cli/gantt-text.ts';
import { dispatch } from '../../src/main/cli/program.ts';
import { LastMinute, topView } from '../../src/main/cli/top-view.ts';
import { bars } from '../../src/node/observe/gantt.ts';
import { ganttSvg } from '../../src/node/observe/gantt-svg.ts';
import type { JobRecord, JobShape } from '../../src/node/observe/job-record.ts';
import { createLog } from '../../src/node/observe/log.ts';
import type { NowView } from '../../src/node/observe/metrics-server.ts';
import { createObservability, type Observability } from '../../src/node/observe/observability.ts';

const SHAPE: JobShape = {
  name: 'RunPodSandbox',
  stages: [
    { name: 'reserve', needs: [] },
    { name: 'netns', needs: ['reserve'] },
    { name: 'network', needs: ['netns'] },
    { name: 'image', needs: ['reserve'] },
    { name: 'create', needs: ['image', 'netns'] },
    { name: 'ready', needs: ['create', 'network'] },
  ],
};

const RECORD: JobRecord = {
  job: 'RunPodSandbox',
  id: '0123456789abcdef',
  pod: 'default/web',
  at: 1_700_000_000_000,
  started: 10,
  ended: 100,
  outcome: 'ok',
  joined: 0,
  undos: [],
  stages: [
    { stage: 'reserve', pool: 'main', ready: 10, started: 10, ended: 20 },
    { stage: 'netns', pool: 'net', ready: 20, started: 20, ended: 30 },
    { stage: 'image', pool: 'image', ready: 20, started: 20, ended: 40 },
    { stage: 'network', pool: 'net', ready: 30, started: 50, ended: 90 },
    { stage: 'create', pool: 'main', ready: 40, started: 40, ended: 60 },
    { stage: 'ready', pool: 'main', ready: 90, started: 90, ended: 100 },
  ],
};

const FAILED: JobRecord = {
  ...RECORD,
  outcome: 'error',
  code: 'CNI_FAILED',
  error: 'stage network: plugin <bridge> failed\x1b[2J',
  stages: RECORD.stages
    .slice(0, 5)
    .map((stage) => (stage.stage === 'network' ? { ...stage, error: 'plugin <bridge> failed\x1b[2J' } : stage)),
  undos: [{ stage: 'netns', started: 91, ended: 99 }],
};

test('bars: dependencies and the critical path', () => {
  const all = bars(RECORD, SHAPE, RECORD.at + 100);
  assert.deepEqual(
    all.filter(({ critical }) => critical).map(({ name }) => name),
    ['admit', 'reserve', 'netns', 'network', 'ready'],
  );
  const after = Object.fromEntries(all.map((bar) => [bar.name, bar.after]));
  assert.equal(after.create, 'image');
  assert.equal(after.ready, 'network');
});

test('a skipped stage is replaced by those it needs', () => {
  const hostNetwork = {
    ...RECORD,
    stages: RECORD.stages.filter(({ stage }) => stage !== 'netns' && stage !== 'network'),
  };
  const create = bars(hostNetwork, SHAPE, 0).find(({ name }) => name === 'create');
  assert.equal(create?.after, 'image');
  const lone = bars({ ...hostNetwork, stages: hostNetwork.stages.filter(({ stage }) => stage !== 'image') }, SHAPE, 0);
  assert.equal(lone.find(({ name }) => name === 'create')?.after, 'reserve');
});

test('the text chart: rows in order, waiting and work to scale, no escape sequences from names', () => {
  const text = ganttText(RECORD, SHAPE, { width: 100, color: false, now: 0 });
  const lines = text.split('\n');
  assert.match(lines[0] ?? '', /^RunPodSandbox default\/web {2}ok {2}100.0 ms/);
  const row = (name: string) => lines.find((line) => line.slice(1).startsWith(name)) ?? '';
  const count = (name: string, char: string) => row(name).split(char).length - 1;
  assert.match(row('network'), /^\*network +░+█+ +40.0 ms \+20.0 ms queue$/);
  assert.ok(Math.abs(count('network', '█') / count('network', '░') - 2) < 0.3, row('network'));
  assert.match(text, /longest chain: reserve → netns → network → ready/);
  for (const line of lines) assert.ok(line.length <= 110, line);

  const failed = ganttText(FAILED, SHAPE, { width: 100, color: true, now: 0 });
  assert.match(failed, /undo netns.*▒/);
  assert.match(failed, /network: plugin <bridge> failed \[2J/);
  assert.ok(!failed.includes('\x1b[2J'));
});

test('the SVG chart is well-formed and escapes texts', () => {
  for (const record of [
    RECORD,
    FAILED,
    { ...RECORD, ended: undefined, outcome: undefined, stages: RECORD.stages.slice(0, 2) },
  ]) {
    const svg = ganttSvg(record, SHAPE, record.at + 70);
    assert.ok(svg.startsWith('<svg xmlns="http://www.w3.org/2000/svg"') && svg.endsWith('</svg>\n'));
    const open: string[] = [];
    for (const [, close, name = '', self] of svg.matchAll(/<(\/?)([a-z]+)[^>]*?(\/?)>/g)) {
      if (close) assert.equal(open.pop(), name);
      else if (!self) open.push(name);
    }
    assert.deepEqual(open, []);
    assert.ok(!svg.includes('NaN') && !svg.includes('<bridge>') && !svg.includes('\x1b'));
    assert.equal(svg.match(/<text class="(critical )?name"/g)?.length, 1 + record.stages.length + record.undos.length);
  }
});

class Memory extends Writable {
  text = '';
  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.text += chunk;
    done();
  }
}

async function withDaemon(work: (all: Observability, args: string[]) => Promise<void>): Promise<void> {
  await using all = createObservability({
    config: {
      metrics: { listen: '127.0.0.1:0', containerd_names: false },
      tracing: { endpoint: '' },
      log: { level: 'info', max_container_line: 1 },
    },
    jobs: [SHAPE],
    log: createLog({ level: 'info', stream: { write() {} } }),
  });
  await all.server.listen();
  await work(all, ['--metrics', `127.0.0.1:${all.server.port}`]);
}

async function launch({ observer }: Observability, pod: string, error?: SluiceError): Promise<void> {
  const job = observer.jobQueued({ job: 'RunPodSandbox', pod });
  observer.jobStarted(job);
  observer.stageReady(job, 'reserve');
  observer.stageStarted(job, 'reserve');
  await sleep(5);
  observer.stageEnded(job, 'reserve', error);
  observer.jobEnded(job, error);
}

test('sluice trace: one launch, the list, SVG, JSON, and launches that do not exist', async () => {
  await withDaemon(async (all, args) => {
    await launch(all, 'default/web-1');
    await launch(all, 'default/web-10', new SluiceError('CNI_FAILED', 'no bridge'));
    const run = async (...more: string[]) => {
      const out = new Memory();
      assert.equal(await dispatch(['trace', ...more, ...args], out), 0);
      return out.text;
    };
    assert.match(await run('web-1'), /^RunPodSandbox default\/web-1 {2}ok/);
    assert.match(await run('web-10'), /error CNI_FAILED[\s\S]*reserve: no bridge/);
    assert.match(await run('default/web'), /web-10[\s\S]*\(1 other pods match "default\/web"/);
    const list = (await run()).trim().split('\n');
    assert.equal(list.length, 3);
    assert.match(list[1] ?? '', /error .*reserve .* default\/web-10$/);
    assert.equal(JSON.parse(await run('web-1', '--json')).pod, 'default/web-1');
    assert.ok((await run('web-1', '--svg', '-')).startsWith('<svg'));
    const file = join(tmpdir(), `sluice-trace-${process.pid}.svg`);
    try {
      assert.match(await run('web-1', '--svg', file), /^RunPodSandbox/);
      assert.ok(readFileSync(file, 'utf8').startsWith('<svg'));
    } finally {
      rmSync(file, { force: true });
    }
    await assert.rejects(run('nobody'), /no launch that matches "nobody"/);
    await assert.rejects(run('x', '--job', 'Nope'), /Allowed choices are RunPodSandbox/);
  });
  await assert.rejects(
    dispatch(['trace', 'web', '--metrics', '127.0.0.1:1'], new Memory()),
    /no daemon answers at 127.0.0.1:1/,
  );
});

test('sluice top --once: one view of the daemon', async () => {
  await withDaemon(async (all, args) => {
    all.metrics.readFrom({
      stage: (stage) =>
        stage === 'network' ? { running: 8, queued: 3, limit: 8 } : { running: 0, queued: 0, limit: 8 },
      pods: () => ({ ready: 42 }),
    });
    await launch(all, 'default/done');
    await launch(all, 'default/broken', new SluiceError('CNI_FAILED', 'no bridge'));
    const flying = all.observer.jobQueued({ job: 'RunPodSandbox', pod: 'default/flying' });
    all.observer.jobStarted(flying);
    all.observer.stageReady(flying, 'netns');
    const out = new Memory();
    assert.equal(await dispatch(['top', '--once', ...args], out), 0);
    assert.match(out.text, /42 pods ready {2}launches 2\/min .*1 FAILED/);
    assert.match(out.text, /^reserve +0 +8 +0 +2 +1 /m);
    assert.match(out.text, /^network +8 +8 +3 +0 /m);
    assert.match(out.text, /netns wait +default\/flying/);
    assert.match(out.text, /SLOWEST OF THE LAST MINUTE\n.*default\/(done|broken)/);
    assert.ok(!out.text.includes('\x1b'));
    await assert.rejects(dispatch(['top', '--interval', '0', ...args], out), /--interval/);
  });
});

test('the view fits the terminal, whatever its size', () => {
  const minute = new LastMinute();
  minute.add(
    Array.from({ length: 50 }, (_, i) => ({
      ...RECORD,
      id: String(i),
      pod: `default/pod-${i}`,
      at: Date.now() - 2000,
    })),
    Date.now(),
  );
  const use = { running: 1, queued: 0, limit: 8 };
  const now: NowView = {
    now: Date.now(),
    version: '1',
    jobs: Array.from({ length: 300 }, (_, i) => ({ ...RECORD, id: `r${i}`, ended: undefined, at: Date.now() - i })),
    stages: { reserve: use, netns: use, network: { running: 8, queued: 90, limit: 8 } },
    lanes: { launch: { running: 300, queued: 0, limit: 300 } },
    laneQueueLimit: 1000,
    pools: [{ name: 'net', threads: 2, running: 3, queued: 0, restarts: 0 }],
    pods: { ready: 9 },
    containers: {},
    shims: [16, 16, 3, 1].map((pods, at) => ({ runtime: at < 3 ? 'runc' : 'crun', leader: `p${at}`, pods })),
    refused: 0,
    cleanupsPending: 2,
    cleanups: [],
    loopDelay: { p50: 0, p99: 0.001, max: 0.02 },
    residentBytes: 1e8,
    cpuSeconds: 3,
    uptimeSeconds: 60,
  };
  for (const [width, height] of [
    [80, 24],
    [200, 60],
    [40, 10],
  ] as const) {
    const lines = topView(now, minute, { width, height, color: false, address: 'x' });
    assert.ok(lines.length <= height);
    for (const line of lines) assert.ok(line.length <= width, `${line.length} > ${width}: ${line}`);
  }
  const text = topView(now, minute, { width: 120, height: 40, color: false, address: 'x' }).join('\n');
  assert.match(text, /and \d+ more/);
  assert.match(text, /2 CLEAN-UPS PENDING/);
  assert.match(text, /shims of runc: 3 {3}2 with 16 pods {3}1 with 3 pods {3}shims of crun: 1 {3}1 with 1 pod$/m);
  minute.add([], Date.now() + 61_000);
  assert.equal(minute.jobs.length, 0);
});

test('sluice log-level shows and changes', async () => {
  await withDaemon(async (all, args) => {
    const out = new Memory();
    await dispatch(['log-level', ...args], out);
    await dispatch(['log-level', 'debug', ...args], out);
    assert.equal(out.text, 'info\ndebug\n');
    assert.equal(all.log.currentLevel, 'debug');
    await assert.rejects(dispatch(['log-level', 'loud', ...args], out), /unknown log level "loud"/);
  });
});
