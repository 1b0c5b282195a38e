import { request as httpsRequest } from 'node:https';
import { setTimeout as sleep } from 'node:timers/promises';
import { request as httpRequest } from '../../sys/http.ts';

/** A finished span. Ids are hexadecimal; times are milliseconds since the epoch, with fractions. */
export interface Span {
  traceId: string;
  spanId: string;
  parentSpanId?: string;
  name: string;
  kind: 'internal' | 'server';
  startMs: number;
  endMs: number;
  attributes: Record<string, string | number | boolean | undefined>;
  /** Error text; undefined for a success. */
  error?: string;
  /** Spans, other than the parent, that this one waited for. */
  links?: { traceId: string; spanId: string; attributes: Record<string, string> }[];
}

export interface OtlpOptions {
  /** Base URL such as http://127.0.0.1:4318, or the full URL ending in /v1/traces. */
  endpoint: string;
  /** Resource attributes (service.name and others). */
  resource: Record<string, string>;
  /** Called with the number of spans that were delivered or dropped. */
  onSpans?: (outcome: 'exported' | 'dropped', count: number) => void;
  /** Called once with the error when delivery begins to fail, and once without when it works again. */
  onState?: (error: Error | undefined) => void;
  /** Time between batches, in milliseconds; default 1000. */
  intervalMs?: number;
  /** Time limit of a request, in milliseconds; default 10,000. */
  requestTimeoutMs?: number;
}

const MAX_WAITING = 8192;
const MAX_BATCH = 512;
const MAX_RETRIES = 5;
/** Status codes after which an OTLP client retries; with any other error status the spans are dropped. */
const RETRIABLE = new Set([429, 502, 503, 504]);

class CollectorError extends Error {
  readonly retryAfterMs: number | undefined;
  readonly retriable: boolean;

  constructor(status: number, retryAfter: string | undefined) {
    super(`the collector answered ${status}`);
    this.retriable = RETRIABLE.has(status);
    const seconds = Number(retryAfter);
    this.retryAfterMs = Number.isFinite(seconds) && seconds >= 0 ? Math.min(seconds, 60) * 1000 : undefined;
  }
}

/**
 * Sends spans to a collector over OTLP/HTTP with JSON bodies: a batch every second, one request at a time. The queue is
 * bounded; when it is full, the oldest spans are dropped. The OpenTelemetry SDK is not used: with its exporter it is 19
 * packages, 30 MB on disk, 117 ms to load and 26 MiB of memory (measured, Node 24), for one POST request.
 * Source: opentelemetry.io/docs/specs/otlp, section OTLP/HTTP.
 */
export class OtlpExporter implements AsyncDisposable {
  readonly #options: Required<Pick<OtlpOptions, 'intervalMs' | 'requestTimeoutMs'>> & OtlpOptions;
  readonly #url: URL;
  readonly #timer: NodeJS.Timeout;
  readonly #resource: unknown;
  #waiting: Span[] = [];
  #sending: Promise<void> | undefined;
  #failing = false;
  #closing = false;

  constructor(options: OtlpOptions) {
    this.#options = { intervalMs: 1000, requestTimeoutMs: 10_000, ...options };
    this.#url = new URL(options.endpoint);
    if (!this.#url.pathname.endsWith('/v1/traces')) {
      this.#url.pathname = `${this.#url.pathname.replace(/\/$/, '')}/v1/traces`;
    }
    this.#resource = { attributes: attributes(options.resource) };
    this.#timer = setInterval(() => this.#flush(), this.#options.intervalMs).unref();
  }

  /** Queues spans for delivery. */
  add(spans: Span[]): void {
    this.#waiting.push(...spans);
    const excess = this.#waiting.length - MAX_WAITING;
    if (excess > 0) {
      this.#waiting.splice(0, excess);
      this.#options.onSpans?.('dropped', excess);
    }
    if (this.#waiting.length >= MAX_BATCH) this.#flush();
  }

  /** Sends the queued spans, for at most `graceMs` milliseconds, and drops the rest. */
  async close(graceMs = 2000): Promise<void> {
    clearInterval(this.#timer);
    this.#closing = true;
    const { promise: late, resolve } = Promise.withResolvers<'late'>();
    const timer = setTimeout(() => resolve('late'), graceMs);
    while (this.#waiting.length > 0 || this.#sending) {
      this.#flush();
      if ((await Promise.race([this.#sending, late])) === 'late') break;
    }
    clearTimeout(timer);
    if (this.#waiting.length > 0) this.#options.onSpans?.('dropped', this.#waiting.length);
    this.#waiting = [];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #flush(): void {
    if (this.#sending || this.#waiting.length === 0) return;
    const batch = this.#waiting.splice(0, MAX_BATCH);
    this.#sending = this.#deliver(batch).finally(() => {
      this.#sending = undefined;
      if (this.#waiting.length >= MAX_BATCH) this.#flush();
    });
  }

  async #deliver(batch: Span[]): Promise<void> {
    const body = Buffer.from(
      JSON.stringify({
        resourceSpans: [
          { resource: this.#resource, scopeSpans: [{ scope: { name: 'sluice' }, spans: batch.map(toOtlp) }] },
        ],
      }),
    );
    for (let attempt = 0; ; attempt++) {
      try {
        await this.#post(body);
        this.#state(undefined);
        this.#options.onSpans?.('exported', batch.length);
        return;
      } catch (error) {
        this.#state(error as Error);
        const retriable = !(error instanceof CollectorError) || error.retriable;
        if (!retriable || attempt >= MAX_RETRIES || this.#closing) {
          this.#options.onSpans?.('dropped', batch.length);
          return;
        }
        const pause = error instanceof CollectorError ? error.retryAfterMs : undefined;
        const backOff = this.#options.intervalMs * 2 ** attempt * (0.5 + Math.random());
        await sleep(pause ?? backOff, undefined, { ref: false });
      }
    }
  }

  #post(body: Buffer): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const send = this.#url.protocol === 'https:' ? httpsRequest : httpRequest;
    const request = send(
      this.#url,
      {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'content-length': body.length },
        timeout: this.#options.requestTimeoutMs,
      },
      (response) => {
        response.resume();
        response.on('error', reject);
        response.on('end', () => {
          const status = response.statusCode ?? 0;
          if (status >= 200 && status < 300) resolve();
          else reject(new CollectorError(status, response.headers['retry-after']));
        });
      },
    );
    request.on('timeout', () => request.destroy(new Error('the collector does not answer')));
    request.on('error', reject);
    request.end(body);
    return promise;
  }

  #state(error: Error | undefined): void {
    if (this.#failing === (error !== undefined)) return;
    this.#failing = error !== undefined;
    this.#options.onState?.(error);
  }
}

/** Converts a span to OTLP's JSON encoding: ids in hexadecimal, 64-bit integers as strings, enums as numbers. */
function toOtlp(span: Span): unknown {
  return {
    traceId: span.traceId,
    spanId: span.spanId,
    parentSpanId: span.parentSpanId,
    name: span.name,
    kind: span.kind === 'server' ? 2 : 1,
    startTimeUnixNano: nanos(span.startMs),
    endTimeUnixNano: nanos(span.endMs),
    attributes: attributes(span.attributes),
    links: span.links?.map((link) => ({ ...link, attributes: attributes(link.attributes) })),
    status: span.error === undefined ? {} : { code: 2, message: span.error },
  };
}

const nanos = (ms: number) => String(BigInt(Math.round(ms * 1000)) * 1000n);

function attributes(values: Record<string, string | number | boolean | undefined>): unknown[] {
  return Object.entries(values).flatMap(([key, value]): unknown[] => {
    if (value === undefined) return [];
    if (typeof value === 'string') return [{ key, value: { stringValue: value } }];
    if (typeof value === 'boolean') return [{ key, value: { boolValue: value } }];
    return [{ key, value: Number.isInteger(value) ? { intValue: String(value) } : { doubleValue: value } }];
  });
}
