import assert from 'node:assert/strict';
import { createServer, type IncomingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import type { JobRecord, JobShape } from '../../src/node/observe/job-record.ts';
import { OtlpExporter, type Span } from '../../src/node/observe/otlp.ts';
import { parseTraceparent, Tracer } from '../../src/node/observe/tracing.ts';

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736';
const PARENT = `00-${TRACE}-00f067aa0ba902b7-01`;

interface OtlpSpan {
  traceId: string;
  spanId: string;
  parentSpanId?: string;
  name: string;
  kind: number;
  startTimeUnixNano: string;
  endTimeUnixNano: string;
  attributes: { key: string; value: Record<string, unknown> }[];
  links?: { spanId: string }[];
  status: { code?: number; message?: string };
}

/** A collector that answers with the given statuses in turn, the last one for ever. */
async function collector(...statuses: (number | 'hang')[]) {
  const bodies: { path: string | undefined; headers: IncomingHttpHeaders; spans: OtlpSpan[]; resource: unknown }[] = [];
  const requests: string[] = [];
  const server = createServer(async (request, response) => {
    let text = '';
    for await (const chunk of request) text += chunk;
    requests.push(text);
    const status = (statuses.length > 1 ? statuses.shift() : statuses[0]) ?? 200;
    if (status === 'hang') return;
    if (status === 200) {
      const [resourceSpans] = JSON.parse(text).resourceSpans;
      const { resource, scopeSpans } = resourceSpans;
      bodies.push({ path: request.url, headers: request.headers, spans: scopeSpans[0].spans, resource });
    }
    response.writeHead(status, { 'content-type': 'application/json' }).end('{}');
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    bodies,
    requests,
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    [Symbol.dispose]() {
      server.closeAllConnections();
      server.close();
    },
  };
}

const JOBS: JobShape[] = [
  {
    name: 'RunPodSandbox' as const,
    stages: [
      { name: 'reserve', needs: [] },
      { name: 'netns', needs: ['reserve'] },
      { name: 'network', needs: ['netns'] },
    ],
  },
];

function record(extra: Partial<JobRecord> = {}): JobRecord {
  return {
    job: 'RunPodSandbox',
    id: '0123456789abcdef',
    pod: 'default/web',
    sandbox: 'f00',
    at: 1_700_000_000_000,
    started: 2,
    ended: 50.5,
    outcome: 'error',
    code: 'CNI_FAILED',
    error: 'stage network: plugin bridge failed',
    joined: 1,
    traceId: TRACE,
    traceparent: PARENT,
    stages: [
      { stage: 'reserve', pool: 'main', ready: 2, started: 2, ended: 3 },
      { stage: 'netns', pool: 'net', ready: 3, started: 4.25, ended: 6 },
      { stage: 'network', pool: 'net', ready: 6, started: 6, ended: 40, error: 'plugin bridge failed' },
      { stage: 'image', pool: 'image', ready: 3 },
    ],
    undos: [{ stage: 'netns', started: 41, ended: 44 }],
    ...extra,
  };
}

test('traceparent: valid and invalid forms', () => {
  assert.deepEqual(parseTraceparent(PARENT), { traceId: TRACE, spanId: '00f067aa0ba902b7', sampled: true });
  assert.equal(parseTraceparent(`00-${TRACE}-00f067aa0ba902b7-00`)?.sampled, false);
  assert.equal(parseTraceparent(`01-${TRACE}-00f067aa0ba902b7-03-later`)?.sampled, true);
  for (const bad of [
    undefined,
    '',
    'x',
    `ff-${TRACE}-00f067aa0ba902b7-01`,
    `00-${'0'.repeat(32)}-00f067aa0ba902b7-01`,
    `00-${TRACE}-${'0'.repeat(16)}-01`,
    `00-${TRACE.toUpperCase()}-00f067aa0ba902b7-01`,
    `00-${TRACE}-00f067aa0ba902b7-01-more`,
    `00-${TRACE}-00f067aa0ba902b7`,
  ]) {
    assert.equal(parseTraceparent(bad), undefined, bad);
  }
});

test('a job becomes a span below kubelet’s, its stages and undos spans below that, linked by their needs', async () => {
  using it = await collector(200);
  const sent: unknown[] = [];
  const tracer = new Tracer({
    endpoint: it.endpoint,
    version: '1.2.3',
    jobs: JOBS,
    onSpans: (outcome, count) => sent.push(outcome, count),
  });
  assert.equal(tracer.traceId(PARENT), TRACE);
  assert.equal(tracer.traceId(`00-${TRACE}-00f067aa0ba902b7-00`), undefined, 'the caller said: not sampled');
  assert.match(tracer.traceId(undefined) ?? '', /^[\da-f]{32}$/);
  tracer.ended(record());
  tracer.ended(record({ traceId: undefined }));
  await tracer[Symbol.asyncDispose]();

  assert.deepEqual(sent, ['exported', 6]);
  const [body] = it.bodies;
  assert.equal(body?.path, '/v1/traces');
  assert.equal(body?.headers['content-type'], 'application/json');
  assert.match(JSON.stringify(body?.resource), /"service.name","value":\{"stringValue":"sluice"\}/);
  const spans = body?.spans ?? [];
  assert.deepEqual(
    spans.map(({ name }) => name),
    ['RunPodSandbox', 'admit', 'reserve', 'netns', 'network', 'undo netns'],
  );
  const [root, , reserve, netns, network] = spans;
  assert.equal(root?.parentSpanId, '00f067aa0ba902b7');
  assert.equal(root?.kind, 2);
  assert.equal(root?.startTimeUnixNano, '1700000000000000000');
  assert.equal(root?.endTimeUnixNano, '1700000000050500000');
  assert.equal(root?.status.code, 2);
  for (const span of spans) assert.equal(span.traceId, TRACE);
  for (const span of spans.slice(1)) assert.equal(span.parentSpanId, root?.spanId);
  assert.equal(new Set(spans.map(({ spanId }) => spanId)).size, spans.length);
  assert.deepEqual(
    netns?.links?.map(({ spanId }) => spanId),
    [reserve?.spanId],
  );
  assert.equal(netns?.startTimeUnixNano, '1700000000004250000');
  const queue = netns?.attributes.find(({ key }) => key === 'sluice.queue_ms');
  assert.deepEqual(queue?.value, { doubleValue: 1.25 });
  assert.deepEqual(network?.status, { code: 2, message: 'plugin bridge failed' });
  assert.deepEqual(netns?.status, {});
});

const SPAN: Span = {
  traceId: TRACE,
  spanId: 'a'.repeat(16),
  name: 'x',
  kind: 'internal',
  startMs: 1,
  endMs: 2,
  attributes: {},
};

async function until(done: () => boolean): Promise<void> {
  const end = performance.now() + 5000;
  while (!done()) {
    assert.ok(performance.now() < end, 'it did not happen within 5 s');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

function exporter(endpoint: string) {
  const counts = { exported: 0, dropped: 0 };
  const states: string[] = [];
  const one = new OtlpExporter({
    endpoint,
    resource: {},
    intervalMs: 10,
    requestTimeoutMs: 200,
    onSpans: (outcome, count) => {
      counts[outcome] += count;
    },
    onState: (error) => states.push(error?.message ?? 'works'),
  });
  return { one, counts, states };
}

test('spans that a busy collector refuses are sent again; the failure is reported once', async () => {
  using it = await collector(503, 429, 200);
  const { one, counts, states } = exporter(it.endpoint);
  one.add([SPAN, SPAN]);
  await until(() => counts.exported === 2);
  assert.equal(it.requests.length, 3);
  assert.equal(it.requests[0], it.requests[2]);
  assert.deepEqual(states, ['the collector answered 503', 'works']);
  await one.close();
});

test('spans that the collector calls invalid are dropped and not sent again', async () => {
  using it = await collector(400, 200);
  const { one, counts } = exporter(it.endpoint);
  one.add([SPAN]);
  await until(() => counts.dropped === 1);
  one.add([SPAN]);
  await until(() => counts.exported === 1);
  assert.equal(it.requests.length, 2);
  await one.close();
});

test('with a collector that hangs or is absent the queue is bounded and the daemon can end', async () => {
  using it = await collector('hang');
  const { one, counts } = exporter(it.endpoint);
  for (let i = 0; i < 100; i++) one.add(Array.from({ length: 100 }, () => SPAN));
  await until(() => counts.dropped > 0);
  const began = performance.now();
  await one.close(100);
  assert.ok(performance.now() - began < 1000);
  await until(() => counts.dropped === 10_000);
  assert.equal(counts.exported, 0);

  const { one: nobody, counts: lost } = exporter('http://127.0.0.1:9');
  nobody.add([SPAN]);
  await nobody.close(500);
  await until(() => lost.dropped === 1);
});
