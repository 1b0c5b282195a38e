import type { Config } from '../config/config.ts';
import { VERSION } from '../version.ts';
import { Launches } from './launches.ts';
import { createLog, type Log } from './log.ts';
import { Metrics } from './metrics.ts';
import { Observer } from './observer.ts';
import { type JobShape, MetricsServer } from './server.ts';

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

/** Puts the parts together; nothing listens yet (`server.listen()`). Dispose it last: it writes out what is buffered. */
export function createObservability(options: ObservabilityOptions): Observability {
  const { config, jobs } = options;
  const log = options.log ?? createLog({ level: config.log.level });
  const stages = jobs.flatMap((job) => job.stages.map(({ name }) => [job.name, name] as const));
  const metrics = new Metrics({ stages, version: VERSION });
  const launches = new Launches();
  const observer = new Observer({ metrics, launches, log });
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
      await server?.close();
      metrics[Symbol.dispose]();
      log.flush();
    },
  };
}
