import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { ImageServiceDefinition, RuntimeServiceDefinition } from '../../proto/gen/cri.ts';
import { SluiceError } from '../errors.ts';
import type { Config } from '../node/config/config.ts';
import type { Log } from '../node/observe/log.ts';
import { createObservability } from '../node/observe/observability.ts';
import { importFolder } from '../pipeline/jobs/import-folder.ts';
import { recover, sweepNetwork } from '../pipeline/jobs/recover.ts';
import { JOB_TABLES } from '../pipeline/jobs/tables/all.ts';
import { VERSION } from '../version.ts';
import { ImagesDefinition, imagesVerbs } from './cri/image-service.ts';
import { imageVerbs } from './cri/images.ts';
import { CriServer } from './cri/server.ts';
import { runtimeVerbs } from './cri/verbs.ts';
import { readGauges } from './gauges.ts';
import { lockFile } from './lock-file.ts';
import { makeServices, type Services } from './services.ts';

/** Milliseconds that endless streams (events, lists) get to end by themselves. */
const STREAM_GRACE_MS = 2000;

/** One daemon, from its lock file to its socket. */
export class Daemon {
  readonly #services: Services;
  readonly #server: CriServer;
  readonly #ending: AbortController;
  readonly #resources: AsyncDisposableStack;

  private constructor(services: Services, server: CriServer, ending: AbortController, resources: AsyncDisposableStack) {
    this.#services = services;
    this.#server = server;
    this.#ending = ending;
    this.#resources = resources;
  }

  /** Starts everything, finds earlier pods again, and listens. Throws when another daemon has the folder, socket or port. */
  static async start(config: Config, log: Log): Promise<Daemon> {
    await using resources = new AsyncDisposableStack();
    for (const folder of [config.root, config.state]) mkdirSync(folder, { recursive: true, mode: 0o711 });
    resources.use(lockFile(join(config.state, 'sluiced.lock')));
    resources.use(lockFile(join(config.root, 'sluiced.lock')));
    const observability = resources.use(createObservability({ config, jobs: JOB_TABLES, log }));
    const { metrics } = observability;
    const ending = new AbortController();
    const services = await makeServices(config, observability, resources, ending.signal);

    const began = performance.now();
    await services.images.recover();
    const { pods, containers } = services;
    const recovered = await recover({ ctx: services, pods, containers });
    metrics.set('restoreDuration', {}, (performance.now() - began) / 1000);
    for (const state of ['alive', 'dead', 'unknown', 'undone'] as const) {
      metrics.set('restored', { state }, recovered[state]);
    }
    void sweepNetwork(services);
    void importFolder(services);
    readGauges(services);
    const server = new CriServer({
      socket: config.socket,
      services: [
        { definition: RuntimeServiceDefinition, verbs: runtimeVerbs(services) },
        { definition: ImageServiceDefinition, verbs: imageVerbs(services) },
        { definition: ImagesDefinition, verbs: imagesVerbs(services) },
      ],
      onCall: (method, code, seconds) => metrics.grpc(method, code, seconds),
      onError: (method, error) => logFailure(log, method, error),
    });
    await server.listen();
    await observability.server?.listen();
    log.info(
      {
        version: VERSION,
        socket: config.socket,
        metrics: config.metrics.listen,
        root: config.root,
        state: config.state,
        recovered,
      },
      'sluice is ready',
    );
    return new Daemon(services, server, ending, resources.move());
  }

  /** Refuses new jobs and lets the running ones finish; pods stay up. */
  async close(): Promise<void> {
    await this.#services.admission.close();
    this.#ending.abort();
    await this.#server.close(STREAM_GRACE_MS);
    await this.#resources.disposeAsync();
  }
}

/** A caller's mistake is logged as information, a failure of the daemon as an error. */
function logFailure(log: Log, method: string, error: unknown): void {
  const expected = error instanceof SluiceError && error.code !== 'INTERNAL';
  if (expected) log.info({ method, code: error.code, err: error }, 'call failed');
  else log.error({ method, err: error }, 'call failed');
}
