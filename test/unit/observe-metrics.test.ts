import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { UndoRecord } from '../../src/node/observe/job-record.ts';
import { Metrics } from '../../src/node/observe/metrics.ts';
import { LATENCY_BUCKETS, METRICS, type MetricDefinition, RPC_SERVICES } from '../../src/node/observe/table.ts';
import { JOB_NAMES, STAGES } from '../../src/stages.ts';

const STAGE_PAIRS = JOB_NAMES.flatMap((job) =>
  Object.keys(STAGES)
    .slice(0, 6)
    .map((stage) => [job, stage] as const),
);

function make(options: { exemplars?: boolean; containerdNames?: boolean } = {}): Metrics {
  return new Metrics({ stages: STAGE_PAIRS, version: '1.2.3', ...options });
}

/** Value of one series, by the text of the line before it. */
function value(text: string, series: string): number {
  const line = text.split('\n').find((one) => one.startsWith(`${series} `));
  assert.ok(line, `no series ${series}`);
  return Number(line.slice(series.length + 1).split(' ')[0]);
}

test('every metric of the table has its series from the start, with HELP and TYPE', async () => {
  using metrics = make();
  const text = await metrics.text();
  for (const { name, type } of Object.values(METRICS)) {
    assert.ok(text.includes(`# TYPE ${name} ${type}\n`), name);
    assert.match(text, new RegExp(`^${name}(_count)?[ {]`, 'm'), `${name} has no series`);
  }
  assert.equal(
    value(text, 'sluice_stage_duration_seconds_count{job="RunPodSandbox",stage="reserve",outcome="error"}'),
    0,
  );
  assert.equal(value(text, 'sluice_stage_queue_seconds_count{job="PullImage",stage="admit"}'), 0);
  assert.equal(value(text, 'sluice_admission_total{lane="teardown",verdict="refused"}'), 0);
  assert.equal(value(text, 'sluice_grpc_handled_total{method="ListPodSandbox",code="Unavailable"}'), 0);
  assert.equal(value(text, `sluice_build_info{version="1.2.3",node="${process.versions.node}"}`), 1);
});

test('stage series exist for the stages of the job tables and no others', async () => {
  using metrics = new Metrics({ stages: [['RunPodSandbox', 'netns']], version: '1' });
  const text = await metrics.text();
  assert.ok(text.includes('{job="RunPodSandbox",stage="netns",outcome="ok",le="0.001"}'));
  assert.ok(!text.includes('job="StopPodSandbox",stage="netns"'));
  assert.ok(!text.includes('stage="shim",outcome="ok",le="240"} 0\nsluice_stage_duration'));
});

test('a histogram counts a value in the right bucket, up to kubelet’s deadline', async () => {
  using metrics = make();
  assert.equal(LATENCY_BUCKETS.at(-1), 240);
  metrics.observe('stageDuration', { job: 'RunPodSandbox', stage: 'network', outcome: 'error' }, 130);
  const text = await metrics.text();
  const series = (le: string) =>
    `sluice_stage_duration_seconds_bucket{job="RunPodSandbox",stage="network",outcome="error",le="${le}"}`;
  assert.equal(value(text, series('120')), 0);
  assert.equal(value(text, series('240')), 1);
  assert.equal(value(text, series('+Inf')), 1);
});

test('labels stay closed: unknown plugins count as other, unknown RPCs not at all, unknown codes as Unknown', async () => {
  using metrics = make();
  metrics.cni('my-own-plugin', 'ADD', 'ok', 0.1);
  metrics.grpc('Gimme', 0, 1);
  metrics.grpc('Status', 77, 1);
  const text = await metrics.text();
  assert.equal(value(text, 'sluice_cni_duration_seconds_count{plugin="other",command="ADD",outcome="ok"}'), 1);
  assert.equal(value(text, 'sluice_grpc_handled_total{method="Status",code="Unknown"}'), 1);
  assert.ok(!text.includes('Gimme') && !text.includes('my-own-plugin'));
});

test('plugins of the loaded configuration get their series, and keep their counts when it is loaded again', async () => {
  using metrics = make();
  metrics.cniPlugins(['bridge']);
  metrics.cni('bridge', 'DEL', 'timeout', 30);
  metrics.cniPlugins(['bridge', 'portmap']);
  const text = await metrics.text();
  assert.equal(value(text, 'sluice_cni_duration_seconds_count{plugin="bridge",command="DEL",outcome="timeout"}'), 1);
  assert.equal(value(text, 'sluice_cni_duration_seconds_count{plugin="portmap",command="ADD",outcome="ok"}'), 0);
});

test('sources are read at each scrape; missing states become 0; restarts never decrease', async () => {
  using metrics = make();
  let pods: Record<string, number> = { ready: 7, creating: 2 };
  let restarts = 3;
  metrics.readFrom({
    pods: () => pods,
    stage: (stage) => ({ running: stage === 'network' ? 4 : 0, queued: 1, limit: 8 }),
    lanes: () => ({
      launch: { running: 1, queued: 2, limit: 3 },
      teardown: { running: 0, queued: 0, limit: 3 },
      image: { running: 0, queued: 0, limit: 3 },
    }),
    laneQueueLimit: () => 500,
    pools: () => [{ name: 'net', use: { threads: 2, running: 5, queued: 1, restarts } }],
    cleanupsPending: () => 2,
    networkReady: () => true,
  });
  let text = await metrics.text();
  assert.equal(value(text, 'sluice_pods{state="ready"}'), 7);
  assert.equal(value(text, 'sluice_stage_running{stage="network"}'), 4);
  assert.equal(value(text, 'sluice_lane_queue_limit{lane="launch"}'), 500);
  assert.equal(value(text, 'sluice_pool_restarts_total{pool="net"}'), 3);
  assert.equal(value(text, 'sluice_cleanups_pending'), 2);
  assert.equal(value(text, 'sluice_network_ready'), 1);
  pods = { ready: 1 };
  restarts = 2;
  text = await metrics.text();
  assert.equal(value(text, 'sluice_pods{state="creating"}'), 0);
  assert.equal(value(text, 'sluice_pool_restarts_total{pool="net"}'), 3);
});

test('both formats come from one registry, in any order, and the counters keep their names', async () => {
  using metrics = make({ exemplars: true });
  metrics.observe('jobDuration', { job: 'RunPodSandbox', outcome: 'ok' }, 0.3, 'ab'.repeat(16));
  metrics.observe('jobDuration', { job: 'RunPodSandbox', outcome: 'error' }, 0.3);
  const open = await metrics.text('openmetrics');
  const plain = await metrics.text('prometheus');
  assert.ok(open.endsWith('# EOF\n'));
  assert.ok(open.includes('# TYPE sluice_admission counter\n'));
  assert.ok(open.includes('# UNIT sluice_job_duration_seconds seconds\n'));
  assert.match(open, /outcome="ok",le="0.5"\} 1 # \{trace_id="(ab){16}"\} 0.3 \d+/);
  assert.ok(open.includes('le="1.0"}') && open.includes('le="+Inf"}'));
  for (const foreign of ['trace_id', '# EOF', '# UNIT', 'le="1.0"']) assert.ok(!plain.includes(foreign), foreign);
  assert.ok(plain.includes('# TYPE sluice_admission_total counter\n'));
  const names = (text: string) => text.match(/^sluice_admission_total\{/gm)?.length;
  assert.equal(names(open), names(plain));
});

test('a scrape costs under 20 ms and 1 MB with every series there is', async () => {
  using metrics = make({ exemplars: true, containerdNames: true });
  metrics.cniPlugins(METRICS.cniDuration.labels.plugin);
  const took: number[] = [];
  let bytes = 0;
  for (let i = 0; i < 15; i++) {
    const before = process.cpuUsage();
    bytes = Buffer.byteLength(await metrics.text());
    const { user, system } = process.cpuUsage(before);
    took.push((user + system) / 1000);
  }
  took.sort((a, b) => a - b);
  assert.ok((took[7] ?? 99) < 20, `median ${took[7]} ms`);
  assert.ok(bytes < 1e6, `${bytes} bytes`);
});

test('the table keeps the naming rules', () => {
  for (const definition of Object.values(METRICS) as MetricDefinition[]) {
    const { name, type, help, buckets, common } = definition;
    assert.match(name, /^[a-z][a-z0-9_]+$/);
    assert.ok(common || name.startsWith('sluice_'), name);
    assert.equal(name.endsWith('_total'), type === 'counter', name);
    assert.equal(buckets !== undefined, type === 'histogram', name);
    if (type === 'histogram') assert.match(name, /_seconds$/);
    assert.match(help, /^[A-Z0-9].*\.$/, `help of ${name} is a sentence`);
    assert.ok(!/_(ms|milliseconds|mib|kb)(_|$)/.test(name), name);
    for (const values of Object.values(definition.labels)) assert.ok(values.length < 64, `${name} has a wide label`);
  }
  assert.ok(RPC_SERVICES.size >= 40);
  assert.equal(RPC_SERVICES.get('PullImage'), 'runtime.v1.ImageService');
});

test('containerd’s names appear when asked for', async () => {
  using metrics = make({ containerdNames: true });
  const record = {
    id: 'x',
    at: 0,
    joined: 0,
    undos: [] as UndoRecord[],
    started: 10,
    ended: 110,
    outcome: 'ok' as const,
  };
  const stage = (name: 'netns' | 'network', started: number, ended: number) =>
    ({ stage: name, pool: 'net', ready: 0, started, ended }) as const;
  metrics.containerd?.jobEnded({
    ...record,
    job: 'RunPodSandbox',
    stages: [stage('netns', 10, 20), stage('network', 20, 60)],
  });
  metrics.containerd?.jobEnded({ ...record, job: 'PullImage', outcome: 'error', stages: [] });
  metrics.grpc('ListPodSandbox', 0, 0.004);
  const text = await metrics.text();
  assert.equal(value(text, 'containerd_cri_sandbox_create_network_seconds_sum'), 0.05);
  assert.equal(value(text, 'containerd_cri_sandbox_runtime_create_seconds_sum{runtime="io.containerd.runc.v2"}'), 0.1);
  assert.equal(value(text, 'containerd_cri_network_plugin_operations_total_total{operation_type="set_up_pod"}'), 1);
  assert.equal(value(text, 'containerd_cri_sandboxed_image_pulls_total{status="failure"}'), 1);
  assert.equal(value(text, 'containerd_cri_sandbox_list_seconds_count'), 1);
  assert.match(
    text,
    /grpc_server_handled_total\{grpc_type="unary",grpc_service="runtime.v1.RuntimeService",grpc_method="ListPodSandbox",grpc_code="OK"\} 1/,
  );
});

test('the delay of the event loop is measured', async () => {
  using metrics = make();
  await new Promise((resolve) => setTimeout(resolve, 150));
  const until = performance.now() + 300;
  while (performance.now() < until);
  await new Promise((resolve) => setTimeout(resolve, 250));
  const text = await metrics.text();
  const late = value(text, 'sluice_event_loop_delay_recent_seconds{stat="max"}');
  assert.ok(late >= 0.05 && late < 2, `max ${late}`);
  assert.ok(value(text, 'sluice_event_loop_delay_seconds_count') >= 3);
  assert.ok(value(text, 'process_resident_memory_bytes') > 10e6);
  assert.ok(value(text, 'process_open_fds') >= 3);
});
