import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { Client, credentials, Metadata } from '@grpc/grpc-js';
import { type RunPodSandboxRequest, RuntimeServiceDefinition } from '../../proto/gen/cri.ts';
import { grpcService } from '../../src/node/grpc/service.ts';
import { load } from '../bench/load.ts';
import { type SluiceDaemon, startSluice } from '../rig/daemon.ts';
import { podConfig } from '../rig/messages.ts';
import { ROOT } from '../rig/paths.ts';
import { run, waitFor } from '../rig/proc.ts';
import {
  alertQueries,
  boardQueries,
  type Prometheus,
  scraped,
  startPrometheus,
  unanswered,
} from './observe-prometheus.ts';

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736';
const PARENT = '00f067aa0ba902b7';

interface Span {
  traceId: string;
  spanId: string;
  parentSpanId?: string;
  name: string;
  status: { code?: number };
}

const resources = new AsyncDisposableStack();
const spans: Span[] = [];
let sluice: SluiceDaemon;
let prometheus: Prometheus;

before(async () => {
  const collector = createServer(async (request, response) => {
    let text = '';
    for await (const chunk of request) text += chunk;
    for (const { scopeSpans } of JSON.parse(text).resourceSpans) spans.push(...scopeSpans[0].spans);
    response.writeHead(200, { 'content-type': 'application/json' }).end('{}');
  });
  await new Promise<void>((resolve) => collector.listen(0, '127.0.0.1', resolve));
  resources.defer(() => {
    collector.closeAllConnections();
    collector.close();
  });
  const endpoint = `http://127.0.0.1:${(collector.address() as AddressInfo).port}`;
  // With a pause process: such a launch has all stages.
  const runtimes = { runc: { sandbox_mode: 'pause' } };
  const config = { tracing: { endpoint }, metrics: { containerd_names: true }, runtimes };
  sluice = resources.use(await startSluice({ config }));
  prometheus = resources.use(await startPrometheus([sluice.metrics]));
});

after(() => resources.disposeAsync());

/** A launch as kubelet sends it with tracing on. */
function launchWithTrace(name: string, handler = ''): Promise<string> {
  const client = new Client(`unix:${sluice.socket}`, credentials.createInsecure());
  const metadata = new Metadata();
  metadata.set('traceparent', `00-${TRACE}-${PARENT}-01`);
  const method = grpcService(RuntimeServiceDefinition).runPodSandbox;
  const config = podConfig(name, { cgroupParent: sluice.cgroupParent });
  const request: RunPodSandboxRequest = { config, runtimeHandler: handler };
  return new Promise<string>((resolve, reject) => {
    client.makeUnaryRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      request,
      metadata,
      (error, answer) => {
        client.close();
        if (error || !answer) reject(error ?? new Error('no answer'));
        else resolve(answer.podSandboxId);
      },
    );
  });
}

const cli = (...args: string[]) => run('/bin/sh', [join(ROOT, 'bin/sluice'), ...args, '--metrics', sluice.metrics]);

test('every query of every dashboard and alert has data while pods launch', async () => {
  const { cri, cgroupParent } = sluice;
  await scraped(prometheus, 2);
  const launched = await load({ cri, cgroupParent, pods: 12, parallel: 4, ops: ['run', 'list', 'stop', 'remove'] });
  assert.equal(launched.pods, 12);
  await assert.rejects(cri.runPodSandbox({ config: podConfig('bad', { cgroupParent }), runtimeHandler: 'nope' }));
  await scraped(prometheus, 5);
  assert.deepEqual(await unanswered(prometheus, [...boardQueries(), ...alertQueries()]), []);
  const [launches] = await prometheus.query(
    'sum(sluice_job_duration_seconds_count{exported_job="RunPodSandbox",outcome="ok"})',
  );
  assert.equal(launches?.value[1], '12');
  const [stages] = await prometheus.query(
    'count(count by (stage) (sluice_stage_duration_seconds_count{exported_job="RunPodSandbox",outcome="ok"} == 12))',
  );
  assert.ok(Number(stages?.value[1]) >= 10, 'each stage of each launch is counted');
  const [cni] = await prometheus.query(
    'sum(sluice_cni_duration_seconds_count{plugin="bridge",command="ADD",outcome="ok"})',
  );
  assert.equal(cni?.value[1], '12');
  const [aliases] = await prometheus.query('containerd_cri_sandbox_create_network_seconds_count');
  assert.equal(aliases?.value[1], '12');
});

test('a scrape is clean and small, and the firing alerts are none', async () => {
  const text = await sluice.scrape();
  assert.ok(text.length < 1e6, `${text.length} bytes`);
  const firing = await prometheus.query('ALERTS{alertstate="firing"}');
  assert.deepEqual(
    firing.map(({ metric }) => metric.alertname),
    [],
  );
});

test('one launch: its spans below kubelet’s, its log line, its chart, its place in top', async () => {
  const id = await launchWithTrace('traced');
  const all = await waitFor('the spans', 10_000, () => {
    const mine = spans.filter(({ traceId }) => traceId === TRACE);
    return mine.length > 5 ? mine : undefined;
  });
  const root = all.find(({ name }) => name === 'RunPodSandbox');
  assert.equal(root?.parentSpanId, PARENT);
  for (const stage of ['admit', 'netns', 'network', 'shim', 'create', 'start']) {
    assert.equal(all.find(({ name }) => name === stage)?.parentSpanId, root?.spanId, stage);
  }

  const line = await waitFor('the log line', 5000, () =>
    sluice
      .log()
      .split('\n')
      .filter((text) => text.includes('"RunPodSandbox done"'))
      .map((text) => JSON.parse(text))
      .find(({ sandbox }) => sandbox === id),
  );
  assert.equal(line.pod, 'rig/traced');
  assert.equal(line.trace, TRACE);
  assert.ok(line.stages.network.work > 0 && line.stages.create.work > 0 && line.ms >= line.stages.network.work);

  const chart = await cli('trace', 'rig/traced');
  assert.match(chart.stdout, /^RunPodSandbox rig\/traced {2}ok/);
  assert.match(chart.stdout, /^[ *]network .*█/m);
  assert.match(chart.stdout, /longest chain: reserve → /);
  const svg = await cli('trace', id.slice(0, 12), '--svg', '-');
  assert.match(svg.stdout, /^<svg[\s\S]*<\/svg>\n$/);
  const picture = await cli('top', '--once');
  assert.match(picture.stdout, /^sluice .* 1 pods ready/);
  assert.match(picture.stdout, /^network +0 +\d+ +0 +\d+ /m);
  await sluice.cri.stopPodSandbox({ podSandboxId: id });
  await sluice.cri.removePodSandbox({ podSandboxId: id });
});

test('the log level changes while it runs', async () => {
  assert.equal((await cli('log-level')).stdout, 'debug\n');
  assert.equal((await cli('log-level', 'error')).stdout, 'error\n');
  process.kill(sluice.pid(), 'SIGUSR2');
  await waitFor('debug by SIGUSR2', 5000, async () => (await cli('log-level')).stdout === 'debug\n' || undefined);
});
