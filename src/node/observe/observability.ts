import { VERSION } from '../../version.ts';
import type { Config } from '../config/config.ts';
import type { JobRecord } from './job-record.ts';
import { Launches } from './launches.ts';
import { createLog, type Log } from './log.ts';
import { Metrics } from './metrics.ts';
import { type JobShape, MetricsServer } from './metrics-server.ts';
import { Observer } from './observer.ts';
import { Tracer } from './tracing.ts';

export interface ObservabilityOptions {
  config: Pick<Config, 'metrics' | 'tracing' | 'log'>;
  /** The tables of all jobs: which series exist, and what `sluice trace` draws between the stages. */
  jobs: readonly JobShape[];
  /** Reasons why /healthz says no. */
  health?: () => string[];
  /** A log that exists already (made before the configuration's other parts). */
  log?: Log;
}

/** All that watches one daemon. */
export interface Observability extends AsyncDisposable {
  log: Log;
  metrics: Metrics;
  launches: Launches;
  /** For the engine. */
  observer: Observer;
  /** Absent when metrics.listen is "". */
  server?: MetricsServer;
}

/** Puts the parts together; nothing listens yet (`server.listen()`). SIGUSR2 toggles debug logging. Dispose it last: it writes out what is buffered. */
export function createObservability(options: ObservabilityOptions): Observability {
  const { config, jobs } = options;
  const log = options.log ?? createLog({ level: config.log.level });
  const stages = jobs.flatMap((job) => job.stages.map(({ name }) => [job.name, name] as const));
  const { endpoint } = config.tracing;
  const metrics = new Metrics({
    stages,
    version: VERSION,
    exemplars: endpoint !== '',
    containerdNames: config.metrics.containerd_names,
  });
  const launches = new Launches();
  const tracer =
    endpoint === ''
      ? undefined
      : new Tracer({
          endpoint,
          jobs,
          version: VERSION,
          onSpans: (outcome, count) => metrics.inc('spans', { outcome }, count),
          onState: (error) =>
            error
              ? log.warn({ err: error, endpoint }, 'the trace collector takes no spans; trying on')
              : log.info({ endpoint }, 'the trace collector takes spans again'),
        });
  const { containerd } = metrics;
  const onEnded = containerd && ((record: JobRecord) => containerd.jobEnded(record));
  const observer = new Observer({ metrics, launches, log, tracer, onEnded });
  const toggle = () => {
    log.toggleDebug();
    log.warn({ level: log.currentLevel }, 'log level changed by SIGUSR2');
  };
  process.on('SIGUSR2', toggle);
  const { listen } = config.metrics;
  const server =
    listen === '' ? undefined : new MetricsServer({ listen, metrics, launches, log, jobs, health: options.health });
  return {
    log,
    metrics,
    launches,
    observer,
    server,
    async [Symbol.asyncDispose]() {
      process.off('SIGUSR2', toggle);
      await server?.close();
      await tracer?.[Symbol.asyncDispose]();
      metrics[Symbol.dispose]();
      log.flush();
    },
  };
}
