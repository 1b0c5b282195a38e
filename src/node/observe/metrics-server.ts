import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import { SluiceError } from '../../errors.ts';
import { JOB_NAMES, type JobName, STAGES } from '../../stages.ts';
import { createServer } from '../../sys/http.ts';
import { listenError, parseListen } from '../config/address.ts';
import { CONTENT_TYPES } from './exposition.ts';
import { ganttSvg } from './gantt-svg.ts';
import type { JobHistory } from './job-history.ts';
import type { JobRecord, JobShape } from './job-record.ts';
import { LOG_LEVELS, type Log, type LogLevel } from './log.ts';
import type { Metrics, NowUse } from './metrics.ts';
import { pageFile } from './page.ts';
import { proportionalBytes } from './process-use.ts';

const compress = promisify(gzip);

/** The answer of /debug/now. */
export type NowView = { now: number; jobs: JobRecord[] } & NowUse;

interface MetricsServerOptions {
  /** host:port; port 0 means any free port. "": it does not listen. */
  listen: string;
  metrics: Metrics;
  history: JobHistory;
  log: Log;
  jobs: readonly JobShape[];
  /** Reasons why the daemon is unhealthy; empty when it is healthy. */
  health?: () => readonly string[];
}

interface Answer {
  status: number;
  type: string;
  body: string;
  headers?: Readonly<Record<string, string>>;
}

/**
 * The HTTP endpoint: /metrics for Prometheus, /healthz for probes, and /debug for `sluice top`, `sluice trace` and
 * `sluice log-level`.
 *
 * /debug returns names of pods and error texts, so it accepts connections from loopback addresses only. Against web
 * pages in a browser on this machine, the Host header must be an IP address or "localhost" (DNS rebinding has another
 * name there), and changes need a header that browsers do not send across origins without a preflight request, which
 * this server never accepts.
 */
export class MetricsServer implements AsyncDisposable {
  readonly #options: MetricsServerOptions;
  #server: Server;

  constructor(options: MetricsServerOptions) {
    this.#options = { ...options };
    this.#server = createServer((request, response) => {
      this.#serve(request, response).catch((error: unknown) => {
        this.#options.log.error({ err: error, url: request.url }, 'a request to the metrics endpoint failed');
        if (!response.headersSent) response.writeHead(500, { 'content-type': 'text/plain' });
        response.end('internal error, see the log\n');
      });
    });
    this.#server.requestTimeout = 10_000;
    this.#server.maxConnections = 64;
  }

  /**
   * Binds the address and resolves to the port, 0 without an address. Rejects with CONFIG_INVALID when the address is
   * malformed, in use or not of this machine.
   */
  async listen(): Promise<number> {
    const { listen } = this.#options;
    if (listen === '') return 0;
    const address = parseListen(listen);
    if (!address) throw new SluiceError('CONFIG_INVALID', `metrics.listen = "${listen}" is not host:port`);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#server.once('error', reject);
    this.#server.listen(address.port, address.host, resolve);
    try {
      await promise;
    } catch (cause) {
      throw listenError('metrics.listen', listen, cause);
    }
    this.#server.off('error', reject);
    this.#server.on('error', (error) => this.#options.log.error({ err: error }, 'the metrics endpoint has an error'));
    this.#options.log.info({ host: address.host, port: this.port }, 'the metrics endpoint listens');
    return this.port;
  }

  /** Goes over to another address, or to none. Throws as {@link listen} does, and then listens at the old one still. */
  async moveTo(listen: string): Promise<void> {
    const next = new MetricsServer({ ...this.#options, listen });
    await next.listen();
    await this.close();
    this.#server = next.#server;
    this.#options.listen = listen;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  async close(): Promise<void> {
    if (!this.#server.listening) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#server.close(() => resolve());
    this.#server.closeAllConnections();
    await promise;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const answer = await this.#answer(request);
    const headers: Record<string, string> = {
      'content-type': answer.type,
      'x-content-type-options': 'nosniff',
      ...answer.headers,
    };
    let body: string | Buffer = answer.body;
    if (body.length > 4096 && /\bgzip\b/.test(request.headers['accept-encoding'] ?? '')) {
      body = await compress(body, { level: 1 });
      headers['content-encoding'] = 'gzip';
    }
    headers['content-length'] = String(Buffer.byteLength(body));
    response.writeHead(answer.status, headers);
    response.end(request.method === 'HEAD' ? undefined : body);
  }

  async #answer(request: IncomingMessage): Promise<Answer> {
    const url = new URL(request.url ?? '/', 'http://localhost');
    const get = request.method === 'GET' || request.method === 'HEAD';
    if (url.pathname.startsWith('/debug/')) {
      if (!isLoopback(request.socket.remoteAddress) || !isOwnName(request.headers.host)) {
        return text(403, '/debug is only available to callers on this machine');
      }
      return this.#debug(request, url);
    }
    if (!get) return text(405, 'GET only');
    switch (url.pathname) {
      case '/metrics': {
        const format = /application\/openmetrics-text/.test(request.headers.accept ?? '')
          ? 'openmetrics'
          : 'prometheus';
        return { status: 200, type: CONTENT_TYPES[format], body: await this.#options.metrics.text(format) };
      }
      case '/healthz': {
        const reasons = this.#options.health?.() ?? [];
        return reasons.length === 0 ? text(200, 'ok') : text(503, reasons.join('\n'));
      }
      default: {
        const file = pageFile(url.pathname);
        return file ? { status: 200, ...file } : text(404, `nothing at ${url.pathname}`);
      }
    }
  }

  async #debug(request: IncomingMessage, url: URL): Promise<Answer> {
    const { history, jobs, metrics } = this.#options;
    if (url.pathname === '/debug/log-level') return this.#logLevel(request, url);
    if (request.method !== 'GET') return text(405, 'GET only');
    switch (url.pathname) {
      case '/debug/jobs':
        return json({ now: Date.now(), jobs: history.running });
      case '/debug/launches': {
        const job = url.searchParams.get('job');
        if (job !== null && !isJob(job)) return text(400, `unknown job "${job}"; the jobs are ${JOB_NAMES.join(', ')}`);
        const limit = Number(url.searchParams.get('limit') ?? 1000);
        if (!Number.isInteger(limit) || limit < 1) return text(400, 'limit must be a whole number above 0');
        const match = url.searchParams.get('match') ?? undefined;
        const after = url.searchParams.get('since');
        const since = after === null ? undefined : Number(after);
        if (Number.isNaN(since)) return text(400, 'since must be milliseconds since the epoch');
        return json({ now: Date.now(), launches: history.find({ job: job ?? undefined, match, since, limit }) });
      }
      case '/debug/pods':
        return json({ now: Date.now(), pods: metrics.podViews() });
      case '/debug/gantt':
        return this.#gantt(url.searchParams.get('id') ?? '');
      case '/debug/now':
        return json({ now: Date.now(), jobs: history.running, ...metrics.now() } satisfies NowView);
      case '/debug/tables':
        return json({ jobs: jobs.map(({ name, stages }) => ({ name, stages: stages.map(shape) })) });
      case '/debug/memory':
        return json({ proportional: await proportionalBytes(), ...process.memoryUsage() });
      default:
        return text(404, `nothing at ${url.pathname}`);
    }
  }

  /** The chart of one job, by the whole of its request id. */
  #gantt(id: string): Answer {
    const { history, jobs } = this.#options;
    const record = [...history.running, ...history.find({ match: id, limit: 1000 })].find((one) => one.id === id);
    if (!record) return text(404, `no job with the request id "${id}" is remembered`);
    const svg = ganttSvg(
      record,
      jobs.find(({ name }) => name === record.job),
      Date.now(),
    );
    return { status: 200, type: 'image/svg+xml', body: svg };
  }

  #logLevel(request: IncomingMessage, url: URL): Answer {
    const { log } = this.#options;
    if (request.method === 'GET') return json({ level: log.currentLevel, levels: LOG_LEVELS });
    if (request.method !== 'PUT') return text(405, 'GET or PUT');
    // A custom header makes a browser send a preflight request first, which this server never accepts.
    if (request.headers['x-sluice'] === undefined) return text(403, 'the header x-sluice is missing');
    const wanted = url.searchParams.get('level') ?? '';
    if (!LOG_LEVELS.includes(wanted as LogLevel)) {
      return text(400, `unknown log level "${wanted}"; the levels are ${LOG_LEVELS.join(', ')}`);
    }
    const before = log.currentLevel;
    log.setLevel(wanted as LogLevel);
    log.warn({ from: before, to: wanted }, 'log level changed');
    return json({ level: log.currentLevel });
  }
}

const shape = ({ name, needs }: JobShape['stages'][number]) => ({ name, needs, pool: STAGES[name].pool });
const text = (status: number, body: string): Answer => ({
  status,
  type: 'text/plain; charset=utf-8',
  body: `${body}\n`,
});
const json = (value: unknown): Answer => ({ status: 200, type: 'application/json', body: JSON.stringify(value) });
const isJob = (name: string): name is JobName => (JOB_NAMES as readonly string[]).includes(name);

function isLoopback(address: string | undefined): boolean {
  return address !== undefined && /^(::ffff:)?127\.|^::1$/.test(address);
}

function isOwnName(host: string | undefined): boolean {
  return host !== undefined && /^(localhost|[\d.]+|\[[\da-fA-F:.]+\])(:\d+)?$/.test(host);
}
