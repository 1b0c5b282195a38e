import { VERSION } from '../../version.ts';
import type { Config } from '../config/config.ts';
import { JobHistory } from './job-history.ts';
import type { JobRecord, JobShape } from './job-record.ts';
import { createLog, type Log } from './log.ts';
import { Metrics } from './metrics.ts';
import { MetricsServer } from './metrics-server.ts';
import { Observer } from './observer.ts';
import { Tracer } from './tracing.ts';

interface ObservabilityOptions {
  config: Pick<Config, 'metrics' | 'tracing' | 'log'>;
  /** The tables of all jobs. They determine which series exist and which dependencies `sluice trace` draws. */
  jobs: readonly JobShape[];
  /** Reasons why the daemon is unhealthy, for /healthz; empty when it is healthy. */
  health?: () => readonly string[];
  /** The daemon's log, if it exists already; else one is created. */
  log?: Log;
}

/** Log, metrics, job records, spans and the HTTP endpoint of one daemon. */
export interface Observability extends AsyncDisposable {
  log: Log;
  metrics: Metrics;
  history: JobHistory;
  /** Passed to the engine, which reports job events to it. */
  observer: Observer;
  server: MetricsServer;
}

/**
 * Creates and connects the parts. The endpoint does not listen before `server.listen()`. Installs a handler for
 * SIGUSR2, which toggles debug logging. Dispose of it last: disposal sends buffered spans and writes buffered log
 * lines.
 */
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
  const history = new JobHistory();
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
              ? log.warn({ err: error, endpoint }, 'the trace collector does not accept spans; trying again')
              : log.info({ endpoint }, 'the trace collector accepts spans again'),
        });
  const { containerd } = metrics;
  const onEnded = containerd && ((record: JobRecord) => containerd.jobEnded(record));
  const observer = new Observer({ metrics, history, log, tracer, onEnded });
  const toggle = () => {
    log.toggleDebug();
    log.warn({ level: log.currentLevel }, 'log level changed by SIGUSR2');
  };
  process.on('SIGUSR2', toggle);
  const { listen } = config.metrics;
  const server = new MetricsServer({ listen, metrics, history, log, jobs, health: options.health });
  return {
    log,
    metrics,
    history,
    observer,
    server,
    async [Symbol.asyncDispose]() {
      process.off('SIGUSR2', toggle);
      await server.close();
      await tracer?.[Symbol.asyncDispose]();
      metrics[Symbol.dispose]();
      log.flush();
    },
  };
}
