import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import { ADMIT, type Lane, type LockKind, type PoolName, type StageName } from '../../stages.ts';
import { withTimeLimit } from '../../time-limit.ts';
import { ContainerdNames } from './containerd-names.ts';
import { render } from './exposition.ts';
import { LoopDelay } from './loop-delay.ts';
import { processUse } from './process-use.ts';
import {
  CNI_PLUGINS,
  GRPC_CODES,
  type KeyOf,
  type LabelsOf,
  METRICS,
  type MetricDefinition,
  type MetricKey,
  RPC_SERVICES,
} from './table.ts';

interface Use {
  running: number;
  queued: number;
  limit: number;
}

type GaugeKeyWith<L extends string> = {
  [K in KeyOf<'gauge'>]: L extends keyof LabelsOf<K> ? K : never;
}[KeyOf<'gauge'>];

/** A pod as the page lists it. */
export interface PodView {
  id: string;
  /** namespace/name. */
  pod: string;
  state: string;
  /** Milliseconds since the epoch; 0 until ready. */
  createdAt: number;
  runtime: string;
  addresses: string[];
  /** Its containers by state. */
  containers: Partial<Record<string, number>>;
  /** A clean-up that failed and is tried again. */
  cleanup?: { failed: string; attempts: number };
}

/** What could not be taken down, is recorded, and is tried again. */
export interface PendingCleanup {
  /** `pod namespace/name` or `container name`. */
  what: string;
  id: string;
  /** Why the last try failed, or why there is something to clean up. */
  failed: string;
  attempts: number;
}

/** Functions that {@link Metrics} calls at each scrape. Each may be missing; its series are then 0. */
interface MetricSources {
  stage?: (stage: StageName) => Use;
  lanes?: () => Record<Lane, Use>;
  /** How many jobs wait for a lock. */
  locksWaiting?: () => Readonly<Record<LockKind, number>>;
  /** pipeline.max_queued. */
  laneQueueLimit?: () => number;
  pools?: () => Iterable<{
    name: PoolName;
    use: { threads: number; running: number; queued: number; restarts: number };
  }>;
  /** Counts by state; a missing state counts as 0. */
  pods?: () => Partial<Record<LabelsOf<'pods'>['state'], number>>;
  containers?: () => Partial<Record<LabelsOf<'containers'>['state'], number>>;
  shims?: () => Partial<Record<LabelsOf<'shims'>['state'], number>>;
  images?: () => number;
  imagePullsRunning?: () => number;
  cleanupsPending?: () => number;
  cleanups?: () => PendingCleanup[];
  storePending?: () => number;
  networkReady?: () => boolean;
  eventSubscribers?: () => number;
  /** Jobs that were refused since the start. */
  refused?: () => number;
  /** The shims one by one. */
  shimUses?: () => ShimUse[];
  /** The pods one by one, newest first, for the page. */
  podViews?: () => PodView[];
  /**
   * From the stdio worker: open sessions by kind, and bytes and log entries of all containers since the worker started.
   */
  stdio?: () => Promise<{
    sessions: Partial<Record<LabelsOf<'streams'>['kind'], number>>;
    totals: { bytes: number; entries: number };
  }>;
}

/** A shim and the pods that it serves: several where its runtime has `pods_per_shim` above 1. */
export interface ShimUse {
  runtime: string;
  /** Id of the pod that it was started for; that pod may be gone. */
  leader: string;
  pods: number;
}

/** Present state of the daemon, for `sluice top`. */
export interface NowUse {
  version: string;
  stages: Partial<Record<StageName, Use>>;
  lanes: Partial<Record<Lane, Use>>;
  laneQueueLimit: number;
  pools: { name: PoolName; threads: number; running: number; queued: number; restarts: number }[];
  pods: Partial<Record<string, number>>;
  containers: Partial<Record<string, number>>;
  shims: ShimUse[];
  cleanupsPending: number;
  /** Those with a reason; further ones reopen the log of a recovered container. */
  cleanups: PendingCleanup[];
  /** Jobs refused since the start, because the queue was full. */
  refused: number;
  /** In seconds, over the last 20 s. */
  loopDelay: { p50: number; p99: number; max: number };
  residentBytes: number;
  /** CPU time of all threads since the start. */
  cpuSeconds: number;
  uptimeSeconds: number;
}

interface MetricsOptions {
  /** Pairs of each job and each of its stages: the series that exist from the start. */
  stages: readonly (readonly [job: string, stage: string])[];
  version: string;
  /** Trace ids on histograms, for OpenMetrics scrapes; only worth its memory while tracing is on. */
  exemplars?: boolean;
  /** Also export containerd's names (containerd-names.ts). */
  containerdNames?: boolean;
}

/** Time limit of the stdio worker's answer to a scrape, in milliseconds. */
const STDIO_WAIT_MS = 500;

type Labels = Record<string, string>;

/** All metrics of one daemon, in their own registry; prom-client's global one would be shared by tests. */
export class Metrics implements Disposable {
  /** In OpenMetrics mode, because prom-client has exemplars only there. exposition.ts renders both formats. */
  readonly registry = new Registry<typeof Registry.OPENMETRICS_CONTENT_TYPE>();
  readonly containerd: ContainerdNames | undefined;
  readonly #counters: Partial<Record<MetricKey, Counter>> = {};
  readonly #gauges: Partial<Record<MetricKey, Gauge>> = {};
  readonly #histograms: Partial<Record<MetricKey, Histogram>> = {};
  readonly #exemplars = new Set<MetricKey>();
  readonly #loop: LoopDelay;
  readonly #version: string;
  readonly #restarts = new Map<PoolName, number>();
  #sources: MetricSources = {};
  #written = { bytes: 0, entries: 0 };
  #busy = 0;
  #cpu = 0;

  constructor(options: MetricsOptions) {
    this.registry.setContentType(Registry.OPENMETRICS_CONTENT_TYPE);
    this.#version = options.version;
    const stages = options.stages.map(([job, stage]) => ({ job, stage }));
    const jobs = [...new Set(stages.map(({ job }) => job))];
    const combinations: Record<NonNullable<MetricDefinition['init']>, readonly Labels[]> = {
      none: [],
      plugins: cniCombinations(['other']),
      stages: METRICS.stageDuration.labels.outcome.flatMap((outcome) => stages.map((pair) => ({ ...pair, outcome }))),
      waits: [...jobs.map((job) => ({ job, stage: ADMIT.name })), ...stages],
    };
    for (const [key, definition] of Object.entries(METRICS) as [MetricKey, MetricDefinition][]) {
      const initial = definition.init ? combinations[definition.init] : product(definition.labels);
      this.#make(key, definition, initial, options.exemplars ?? false);
    }
    if (options.containerdNames) {
      this.containerd = new ContainerdNames(this.registry, () => this.#sources.imagePullsRunning?.() ?? 0);
    }
    this.#gauges.buildInfo?.set({ version: options.version, node: process.versions.node }, 1);
    this.#loop = new LoopDelay(
      (seconds) => this.observe('loopDelay', {}, seconds),
      (kind, seconds) => this.observe('gc', { kind }, seconds),
    );
  }

  /** Increases a counter. */
  inc<K extends KeyOf<'counter'>>(key: K, labels: LabelsOf<K>, by = 1): void {
    this.#counters[key]?.inc(labels as Labels, by);
  }

  /** Sets a gauge. */
  set<K extends KeyOf<'gauge'>>(key: K, labels: LabelsOf<K>, value: number): void {
    this.#gauges[key]?.set(labels as Labels, value);
  }

  /**
   * Observes a value, in the metric's unit, in a histogram. `traceId` becomes the exemplar if the metric has exemplars.
   */
  observe<K extends KeyOf<'histogram'>>(key: K, labels: LabelsOf<K>, value: number, traceId?: string): void {
    const histogram = this.#histograms[key];
    if (!this.#exemplars.has(key)) histogram?.observe(labels as Labels, value);
    else histogram?.observe({ labels: labels as Labels, value, exemplarLabels: traceId ? { trace_id: traceId } : {} });
  }

  /** Counts a CRI call that has ended. Calls of other services are not counted. */
  grpc(method: string, code: number, seconds: number): void {
    if (!RPC_SERVICES.has(method)) return;
    this.inc('grpcHandled', { method, code: GRPC_CODES[code as keyof typeof GRPC_CODES] ?? 'Unknown' });
    this.observe('grpcDuration', { method }, seconds);
    this.containerd?.grpc(method, code, seconds);
  }

  /** Observes a ttrpc call to a shim. Task.Wait is left out: it lasts as long as the container runs. */
  shimCall(method: string, seconds: number): void {
    if (method === 'Wait') return;
    const known = METRICS.shimCall.labels.method.find((name) => name === method) ?? 'other';
    this.observe('shimCall', { method: known }, seconds);
  }

  /** Observes a call of a CNI plugin; `plugin` is its type in the conflist. */
  cni(
    plugin: string,
    command: LabelsOf<'cniDuration'>['command'],
    outcome: 'ok' | 'error' | 'timeout',
    seconds: number,
  ) {
    this.observe('cniDuration', { plugin: knownPlugin(plugin), command, outcome }, seconds);
  }

  /** Creates the series of the plugins in the loaded CNI configurations, so that they exist before the first call. */
  cniPlugins(plugins: Iterable<string>): void {
    const histogram = this.#histograms.cniDuration;
    if (!histogram) return;
    const there = histogram as unknown as { hashMap: Record<string, { labels: Labels }> };
    const known = new Set(Object.values(there.hashMap).map(({ labels }) => labels.plugin));
    const added = [...new Set([...plugins].map(knownPlugin))].filter((plugin) => !known.has(plugin));
    for (const labels of cniCombinations(added)) histogram.zero(labels);
  }

  /** Sets the functions to read at a scrape; each given one replaces the earlier one of that key. */
  readFrom(sources: MetricSources): void {
    this.#sources = { ...this.#sources, ...sources };
  }

  /** The present state, for `sluice top`. Takes microseconds. */
  now(): NowUse {
    const from = this.#sources;
    const stages: NowUse['stages'] = {};
    for (const stage of METRICS.stageRunning.labels.stage) {
      const use = from.stage?.(stage);
      if (use) stages[stage] = use;
    }
    const cpu = process.cpuUsage();
    return {
      version: this.#version,
      stages,
      lanes: from.lanes?.() ?? {},
      laneQueueLimit: from.laneQueueLimit?.() ?? 0,
      pools: [...(from.pools?.() ?? [])].map(({ name, use }) => ({ name, ...use })),
      pods: from.pods?.() ?? {},
      containers: from.containers?.() ?? {},
      shims: from.shimUses?.() ?? [],
      cleanupsPending: from.cleanupsPending?.() ?? 0,
      cleanups: from.cleanups?.() ?? [],
      refused: from.refused?.() ?? 0,
      loopDelay: this.#loop.recent(),
      residentBytes: process.memoryUsage.rss(),
      cpuSeconds: (cpu.user + cpu.system) / 1e6,
      uptimeSeconds: process.uptime(),
    };
  }

  /** The pods one by one. */
  podViews(): PodView[] {
    return this.#sources.podViews?.() ?? [];
  }

  /** All metrics in Prometheus' text format, or in OpenMetrics, which has exemplars. */
  async text(format: 'prometheus' | 'openmetrics' = 'prometheus'): Promise<string> {
    await this.#collect();
    return render(this.registry.getMetricsAsArray(), format);
  }

  [Symbol.dispose](): void {
    this.#loop[Symbol.dispose]();
  }

  #make(key: MetricKey, definition: MetricDefinition, initial: readonly Labels[], exemplars: boolean): void {
    const { name, help } = definition;
    const common = { name, help, labelNames: Object.keys(definition.labels), registers: [this.registry] };
    if (definition.type === 'counter') {
      const counter = new Counter(common);
      for (const labels of initial) counter.inc(labels, 0);
      this.#counters[key] = counter;
    } else if (definition.type === 'gauge') {
      const gauge = new Gauge(common);
      for (const labels of initial) gauge.set(labels, 0);
      this.#gauges[key] = gauge;
    } else {
      const enableExemplars = exemplars && definition.exemplars === true;
      const histogram = new Histogram({ ...common, buckets: [...(definition.buckets ?? [])], enableExemplars });
      for (const labels of initial) histogram.zero(labels);
      this.#histograms[key] = histogram;
      if (enableExemplars) this.#exemplars.add(key);
    }
  }

  async #collect(): Promise<void> {
    const from = this.#sources;
    for (const stage of METRICS.stageRunning.labels.stage) {
      const use = from.stage?.(stage);
      if (!use) continue;
      this.set('stageRunning', { stage }, use.running);
      this.set('stageQueued', { stage }, use.queued);
      this.set('stageLimit', { stage }, use.limit);
    }
    for (const [lane, use] of Object.entries(from.lanes?.() ?? {}) as [Lane, Use][]) {
      this.set('laneRunning', { lane }, use.running);
      this.set('laneQueued', { lane }, use.queued);
      this.set('laneLimit', { lane }, use.limit);
      this.set('laneQueueLimit', { lane }, from.laneQueueLimit?.() ?? 0);
    }
    for (const [lock, count] of Object.entries(from.locksWaiting?.() ?? {}) as [LockKind, number][])
      this.set('lockWaiting', { lock }, count);
    for (const { name: pool, use } of from.pools?.() ?? []) {
      if (pool === 'main') continue;
      this.set('poolThreads', { pool }, use.threads);
      this.set('poolRunning', { pool }, use.running);
      this.set('poolQueued', { pool }, use.queued);
      this.inc('poolRestarts', { pool }, Math.max(0, use.restarts - (this.#restarts.get(pool) ?? 0)));
      this.#restarts.set(pool, use.restarts);
    }
    this.#setAll('pods', 'state', from.pods?.());
    this.#setAll('containers', 'state', from.containers?.());
    this.#setAll('shims', 'state', from.shims?.());
    this.set('images', {}, from.images?.() ?? 0);
    this.set('imagePulling', {}, from.imagePullsRunning?.() ?? 0);
    this.set('cleanupsPending', {}, from.cleanupsPending?.() ?? 0);
    this.set('storePending', {}, from.storePending?.() ?? 0);
    this.set('networkReady', {}, from.networkReady?.() ? 1 : 0);
    this.set('eventSubscribers', {}, from.eventSubscribers?.() ?? 0);
    await this.#collectStdio();
    await this.#collectProcess();
  }

  /** Sets a gauge with one label for each value of the label; values that are missing in `counts` become 0. */
  #setAll<L extends string>(key: GaugeKeyWith<L>, label: L, counts: Partial<Record<string, number>> | undefined): void {
    if (!counts) return;
    const values = (METRICS[key].labels as Record<string, readonly string[]>)[label] ?? [];
    for (const value of values) this.#gauges[key]?.set({ [label]: value }, counts[value] ?? 0);
  }

  /**
   * A worker that restarts or does not answer within the limit must not fail the scrape: its values stay as they were.
   */
  async #collectStdio(): Promise<void> {
    const read = this.#sources.stdio;
    if (!read) return;
    const answer = read().catch(() => undefined);
    const stdio = await withTimeLimit(answer, STDIO_WAIT_MS, () => undefined);
    if (!stdio) return;
    this.#setAll('streams', 'kind', stdio.sessions);
    const { bytes, entries } = stdio.totals;
    const before = this.#written;
    // Lower than before: the worker has restarted and counts from 0.
    this.inc('logBytes', {}, bytes >= before.bytes ? bytes - before.bytes : bytes);
    this.inc('logEntries', {}, entries >= before.entries ? entries - before.entries : entries);
    this.#written = { bytes, entries };
  }

  async #collectProcess(): Promise<void> {
    const { p50, p99, max } = this.#loop.recent();
    this.set('loopDelayStat', { stat: 'p50' }, p50);
    this.set('loopDelayStat', { stat: 'p99' }, p99);
    this.set('loopDelayStat', { stat: 'max' }, max);
    const busy = performance.eventLoopUtilization().active / 1000;
    this.inc('loopBusy', {}, Math.max(0, busy - this.#busy));
    this.#busy = busy;
    const use = await processUse();
    this.inc('processCpu', {}, Math.max(0, use.cpuSeconds - this.#cpu));
    this.#cpu = use.cpuSeconds;
    this.set('processMemory', {}, use.residentBytes);
    this.set('processFds', {}, use.openFds);
    this.set('processMaxFds', {}, use.maxFds);
    this.set('processStart', {}, use.startedAt);
    this.set('heap', { kind: 'used' }, use.heapUsed);
    this.set('heap', { kind: 'total' }, use.heapTotal);
    this.set('heap', { kind: 'external' }, use.external);
  }
}

const PLUGIN_SET: ReadonlySet<string> = new Set(CNI_PLUGINS);

function knownPlugin(plugin: string): (typeof CNI_PLUGINS)[number] {
  return PLUGIN_SET.has(plugin) ? (plugin as (typeof CNI_PLUGINS)[number]) : 'other';
}

/** Label sets of ADD and DEL, which every pod uses; the series of other commands appear with their first call. */
function cniCombinations(plugins: readonly string[]): Labels[] {
  const { outcome } = METRICS.cniDuration.labels;
  return product({ plugin: plugins, command: ['ADD', 'DEL'], outcome });
}

/** All combinations of label values; one empty label set when there are no labels. */
function product(labels: Record<string, readonly string[]>): Labels[] {
  let all: Labels[] = [{}];
  for (const [name, values] of Object.entries(labels)) {
    all = all.flatMap((before) => values.map((value) => ({ ...before, [name]: value })));
  }
  return all;
}
