import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createLog } from '../../src/node/observe/log.ts';
import { createObservability } from '../../src/node/observe/observability.ts';
import { runPod } from '../../src/pipeline/jobs/tables/run-pod.ts';

/** CPU of one pod launch on a small machine (design.md section 1), of which observing may take 2 %. */
const LAUNCH_CPU_US = 80_000;

test('observing a launch costs far less than 2 % of its CPU', async () => {
  await using all = createObservability({
    config: {
      metrics: { listen: '', containerd_names: true },
      tracing: { endpoint: '' },
      log: { level: 'info', max_container_line: 1 },
    },
    jobs: [runPod],
    log: createLog({ level: 'info', stream: { write() {} } }),
  });
  const { observer, metrics } = all;
  const launch = () => {
    const job = observer.jobQueued({ job: 'RunPodSandbox', pod: 'default/web', sandbox: 'f'.repeat(64) });
    observer.jobStarted(job);
    for (const { name } of runPod.stages) {
      observer.stageReady(job, name);
      observer.stageStarted(job, name);
      observer.stageEnded(job, name, undefined);
    }
    for (const plugin of ['bridge', 'portmap']) {
      metrics.cni(plugin, 'ADD', 'ok', 0.02);
      metrics.observe('spawn', { kind: 'cni' }, 0.0004);
    }
    metrics.observe('spawn', { kind: 'shim' }, 0.001);
    for (let i = 0; i < 8; i++) metrics.observe('storeWrite', {}, 0.00004);
    metrics.grpc('RunPodSandbox', 0, 0.08);
    metrics.inc('admission', { lane: 'launch', verdict: 'admitted' });
    observer.jobEnded(job, undefined);
  };
  const rounds: number[] = [];
  for (let round = 0; round < 9; round++) {
    const before = process.cpuUsage();
    for (let i = 0; i < 50; i++) launch();
    const { user, system } = process.cpuUsage(before);
    rounds.push((user + system) / 50);
  }
  const median = rounds.toSorted((a, b) => a - b)[4] ?? Number.NaN;
  assert.ok(median < LAUNCH_CPU_US * 0.01, `${median} µs`);
});
