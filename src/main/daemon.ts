import { join } from 'node:path';
import { ImageServiceDefinition, RuntimeServiceDefinition } from '../../proto/gen/cri.ts';
import { HealthDefinition } from '../../proto/gen/health.ts';
import { explain, SluiceError } from '../errors.ts';
import type { Config } from '../node/config/config.ts';
import { reloadConfig } from '../node/config/load.ts';
import type { Log } from '../node/observe/log.ts';
import { createObservability, type Observability } from '../node/observe/observability.ts';
import { importFolder } from '../pipeline/jobs/import-folder.ts';
import { sweepRegularly } from '../pipeline/jobs/leaks.ts';
import { collectNetworkGarbage, collectRegularly } from '../pipeline/jobs/network-gc.ts';
import { recover, sweepNetwork, unknownBundles } from '../pipeline/jobs/recover.ts';
import { JOB_TABLES } from '../pipeline/jobs/tables/all.ts';
import { VERSION } from '../version.ts';
import { healthVerbs } from './cri/health-service.ts';
import { ImagesDefinition, imagesVerbs } from './cri/image-service.ts';
import { imageVerbs } from './cri/images.ts';
import { CriServer } from './cri/server.ts';
import { runtimeVerbs } from './cri/verbs.ts';
import { LOCK_FILE, makeFolders, spreadFolders } from './folders.ts';
import { readGauges } from './gauges.ts';
import { giveBack, giveBackAfterStorms, trim } from './give-back.ts';
import { lockFile } from './lock-file.ts';
import { onceIdle } from './once-idle.ts';
import type { Phases } from './phases.ts';
import { type Reloaded, reload } from './reload.ts';
import { reportOf } from './report.ts';
import { filesOf, makeServices, type Services } from './services.ts';

const CRI_SERVICES = [RuntimeServiceDefinition.fullName, ImageServiceDefinition.fullName];
/** Milliseconds that endless streams (events, lists) get to end by themselves. */
const STREAM_GRACE_MS = 2000;

export interface StartOptions {
  log: Log;
  phases: Phases;
  /** A descriptor that listens already, in place of the configured socket. */
  listener?: number;
}

/** One daemon, from its lock file to its socket. */
export class Daemon {
  readonly #services: Services;
  readonly #observability: Observability;
  readonly #server: CriServer;
  readonly #ending: AbortController;
  readonly #resources: AsyncDisposableStack;

  private constructor(
    services: Services,
    observability: Observability,
    server: CriServer,
    ending: AbortController,
    resources: AsyncDisposableStack,
  ) {
    this.#services = services;
    this.#observability = observability;
    this.#server = server;
    this.#ending = ending;
    this.#resources = resources;
  }

  /**
   * Starts everything, finds earlier pods again, and listens. Throws when another daemon has the folder, socket or
   * port.
   */
  static async start(config: Config, { log, phases, listener }: StartOptions): Promise<Daemon> {
    await using resources = new AsyncDisposableStack();
    makeFolders(config);
    resources.use(lockFile(join(config.state, LOCK_FILE)));
    resources.use(lockFile(join(config.root, LOCK_FILE)));
    spreadFolders(config, log);
    // The endpoint listens when the services are there.
    const health = (): readonly string[] => services.health.problems;
    const observability = resources.use(createObservability({ config, jobs: JOB_TABLES, log, health }));
    const { metrics } = observability;
    const ending = new AbortController();
    const services = await makeServices(config, observability, resources, ending.signal);
    phases.end('services');

    const began = performance.now();
    const unknown = await unknownBundles(services);
    if (unknown.length > 0) {
      log.error(
        { bundles: unknown },
        'these pods or containers are in no record; what they may use is left alone, and no client sees them',
      );
    }
    await services.images.recover({ keepUnknown: unknown.length > 0 });
    phases.end('images');
    services.images.startCollecting();
    const { pods, containers } = services;
    const { complete } = await recover({ ctx: services, pods, containers });
    phases.end('pods');
    void complete.then((recovered) => {
      metrics.set('restoreDuration', {}, (performance.now() - began) / 1000);
      for (const state of ['alive', 'dead', 'unknown', 'undone'] as const) {
        metrics.set('restored', { state }, recovered[state]);
      }
      log.info({ recovered, seconds: (performance.now() - began) / 1000 }, 'the pods of the daemon before are found');
    });
    if (unknown.length === 0) {
      void sweepNetwork(services).then(() => collectNetworkGarbage(services, { programs: true }));
      resources.use(collectRegularly(services));
    }
    resources.use(sweepRegularly(services));
    const { pools } = services;
    let answered = 0;
    resources.use(
      giveBackAfterStorms({
        admission: services.admission,
        giveBack: () => giveBack(services),
        trim: () => trim(pools.shim),
        answered: () => answered,
        passingThreads: () => pools.image.use.threads + pools.registry.use.threads + pools.store.use.threads,
        onError: (err) => log.warn({ err }, 'free memory could not be given back'),
      }),
    );
    resources.use(onceIdle(services.admission, () => services.images.warm(join(config.state, 'practise'))));
    void importFolder(services);
    readGauges(services);
    const server = new CriServer({
      socket: config.socket,
      listener,
      services: [
        { definition: RuntimeServiceDefinition, verbs: runtimeVerbs(services) },
        { definition: ImageServiceDefinition, verbs: imageVerbs(services) },
        { definition: ImagesDefinition, verbs: imagesVerbs(services) },
        { definition: HealthDefinition, verbs: healthVerbs(services.health, CRI_SERVICES) },
      ],
      onCall: (method, code, seconds) => {
        answered++;
        metrics.grpc(method, code, seconds);
      },
      onError: (method, error) => logFailure(log, method, error),
    });
    await server.listen();
    await observability.server.listen();
    phases.end('listen');
    log.info(
      {
        version: VERSION,
        socket: config.socket,
        metrics: config.metrics.listen,
        root: config.root,
        state: config.state,
        seconds: phases.seconds,
      },
      'sluice is ready',
    );
    return new Daemon(services, observability, server, ending, resources.move());
  }

  /** What it does at the moment: fields for a log line. */
  report(): Promise<Record<string, unknown>> {
    return reportOf(this.#services, this.#observability.history.running);
  }

  /** One line of what it has and does. */
  get summary(): string {
    const { store, admission } = this.#services;
    const pods = [...store.sandboxes.values()].filter(({ state }) => state === 'ready');
    const lanes = Object.values(admission.use);
    const sum = (of: 'running' | 'queued') => lanes.reduce((total, lane) => total + lane[of], 0);
    return `${pods.length} pods, ${sum('running')} jobs running, ${sum('queued')} queued`;
  }

  /**
   * Reads the configuration again and takes over what it can of it. Throws CONFIG_INVALID, and leaves everything as it
   * is then.
   */
  async reload(path: string | undefined): Promise<Reloaded> {
    const next = await reloadConfig(path, filesOf(this.#services.pools));
    return reload(this.#services, this.#observability, next);
  }

  /** Refuses new jobs and lets the running ones finish; pods stay up. */
  async close(): Promise<void> {
    await this.#services.admission.close();
    this.#ending.abort();
    this.#services.events.close();
    await this.#server.close(STREAM_GRACE_MS);
    await this.#resources.disposeAsync();
  }
}

/**
 * A caller's mistake is logged as information, without the stack, a failure of the daemon as an error with it. A
 * refused job has a line of its own already: thousands may be refused in a second, and main writes the log.
 */
function logFailure(log: Log, method: string, error: unknown): void {
  if (!(error instanceof SluiceError) || error.code === 'INTERNAL') log.error({ method, err: error }, 'call failed');
  else
    log[error.code === 'QUEUE_FULL' ? 'debug' : 'info'](
      { method, code: error.code, reason: explain(error) },
      'call failed',
    );
}
