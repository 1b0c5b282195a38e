import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import type { JobRecord, JobShape } from './job-record.ts';
import type { JobTracer } from './observer.ts';
import { OtlpExporter, type OtlpOptions, type Span } from './otlp.ts';

interface TraceParent {
  traceId: string;
  spanId: string;
  sampled: boolean;
}

/**
 * Parses a W3C traceparent header; undefined when it is absent or malformed, which means the same (trace-context,
 * section 3.2).
 */
export function parseTraceparent(header: string | undefined): TraceParent | undefined {
  const match = /^([\da-f]{2})-([\da-f]{32})-([\da-f]{16})-([\da-f]{2})(-.*)?$/.exec(header ?? '');
  if (!match) return undefined;
  const [, version = '', traceId = '', spanId = '', flags = '', rest] = match;
  if (version === 'ff' || (version === '00' && rest !== undefined)) return undefined;
  if (/^0+$/.test(traceId) || /^0+$/.test(spanId)) return undefined;
  return { traceId, spanId, sampled: (Number.parseInt(flags, 16) & 1) === 1 };
}

interface TracerOptions extends Omit<OtlpOptions, 'resource'> {
  version: string;
  /** Tables of the jobs: the span of a stage links to the spans of the stages that it needs. */
  jobs: readonly JobShape[];
}

/**
 * Makes the spans of a job from its record when it has ended: one for the job, whose parent is the caller's span if
 * there is one, and one for each stage and undo. While it runs, a job costs only its trace id. Jobs of a caller that
 * does not sample its trace have no spans; jobs without a caller's trace are all sampled.
 */
export class Tracer implements JobTracer, AsyncDisposable {
  readonly #exporter: OtlpExporter;
  readonly #needs: ReadonlyMap<string, readonly string[]>;

  constructor({ version, jobs, ...options }: TracerOptions) {
    this.#needs = new Map(
      jobs.flatMap((job) => job.stages.map((stage) => [`${job.name}/${stage.name}`, stage.needs] as const)),
    );
    const resource = {
      'service.name': 'sluice',
      'service.version': version,
      'service.instance.id': `${hostname()}/${process.pid}`,
      'host.name': hostname(),
    };
    this.#exporter = new OtlpExporter({ ...options, resource });
  }

  traceId(traceparent: string | undefined): string | undefined {
    const parent = parseTraceparent(traceparent);
    if (!parent) return randomBytes(16).toString('hex');
    return parent.sampled ? parent.traceId : undefined;
  }

  ended(record: JobRecord): void {
    if (record.traceId !== undefined) this.#exporter.add(this.#spans(record, record.traceId));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#exporter.close();
  }

  #spans(record: JobRecord, traceId: string): Span[] {
    const { at, pod, ended = 0 } = record;
    const [namespace, name] = pod?.split('/') ?? [];
    const root: Span = {
      traceId,
      spanId: newSpanId(),
      parentSpanId: parseTraceparent(record.traceparent)?.spanId,
      name: record.job,
      kind: 'server',
      startMs: at,
      endMs: at + ended,
      error: record.error,
      attributes: {
        'sluice.request': record.id,
        'sluice.origin': record.origin ?? 'call',
        'sluice.queue_ms': record.started ?? ended,
        'sluice.joined': record.joined,
        'sluice.error_code': record.code,
        'k8s.namespace.name': namespace,
        'k8s.pod.name': name,
        'sluice.sandbox': record.sandbox,
        'container.id': record.container,
        'container.image.name': record.image,
      },
    };
    const child = (span: string, startMs: number, endMs: number, error?: string): Span => ({
      traceId,
      spanId: newSpanId(),
      parentSpanId: root.spanId,
      name: span,
      kind: 'internal',
      startMs: at + startMs,
      endMs: at + endMs,
      error,
      attributes: {},
    });
    const spans = [root];
    if (record.started !== undefined) spans.push(child('admit', 0, record.started));
    const byStage = new Map<string, Span>();
    for (const { stage, pool, ready, started, ended: over, error } of record.stages) {
      if (started === undefined) continue; // it never started, because another stage failed
      const span = child(stage, started, over ?? ended, error);
      span.attributes = { 'sluice.stage': stage, 'sluice.pool': pool, 'sluice.queue_ms': started - ready };
      const needs = this.#needs.get(`${record.job}/${stage}`) ?? [];
      span.links = needs.flatMap((need) => {
        const other = byStage.get(need);
        return other ? [{ traceId, spanId: other.spanId, attributes: { 'sluice.relation': 'needs' } }] : [];
      });
      byStage.set(stage, span);
      spans.push(span);
    }
    for (const { stage, started, ended: over, error } of record.undos) {
      const span = child(`undo ${stage}`, started, over ?? ended, error);
      span.attributes = { 'sluice.stage': stage, 'sluice.undo': true };
      spans.push(span);
    }
    return spans;
  }
}

const newSpanId = () => randomBytes(8).toString('hex');
