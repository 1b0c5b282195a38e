import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { ImageServiceService, RuntimeServiceService } from '../../proto/gen/cri.ts';
import { nowNs } from '../clock.ts';
import { SluiceError } from '../errors.ts';
import type { Config } from '../node/config/config.ts';
import { Images } from '../node/images/images.ts';
import { BUILT_IN } from '../node/network/builtin.ts';
import { Network } from '../node/network/network.ts';
import type { Log } from '../node/observe/log.ts';
import { createObservability, type Observability } from '../node/observe/observability.ts';
import { loadDefaultAppArmorProfile } from '../node/oci/load-apparmor.ts';
import { openFiles } from '../node/oci/open-files.ts';
import { readHostFacts } from '../node/oci/read-host.ts';
import { readAllFeatures } from '../node/oci/runtime-features.ts';
import { serveEvents } from '../node/shims/events.ts';
import { Shims } from '../node/shims/shims.ts';
import { withEncodedMetrics } from '../node/stats/encoded.ts';
import { Events } from '../node/store/events.ts';
import { Store } from '../node/store/store.ts';
import { type Pools, startPools } from '../node/threads/pools.ts';
import { Admission } from '../pipeline/engine/admission.ts';
import { Engine } from '../pipeline/engine/engine.ts';
import { Cleaner } from '../pipeline/engine/retry-queue.ts';
import { Node } from '../pipeline/jobs/context.ts';
import { recover, sweepNetwork } from '../pipeline/jobs/recover.ts';
import { JOB_TABLES } from '../pipeline/jobs/tables/all.ts';
import { VERSION } from '../version.ts';
import type { ListenInput } from '../workers/stdio/protocol.ts';
import { CriServer } from './cri/server.ts';
import { imageVerbs, runtimeVerbs } from './cri/verbs.ts';
import { lockFile } from './lock-file.ts';
import { watchNode } from './watch-node.ts';

/** As `streaming.tls_cert`: a certificate made at start. */
const SELF_SIGNED = 'self-signed';
const UNDO_SECONDS = 120;
const STREAM_GRACE_MS = 2000;
const CHECKPOINT_MS = 30_000;

/** One daemon, from its lock file to its socket. */
export class Daemon {
  readonly #node: Node;
  readonly #server: CriServer;
  readonly #resources: AsyncDisposableStack;

  private constructor(node: Node, server: CriServer, resources: AsyncDisposableStack) {
    this.#node = node;
    this.#server = server;
    this.#resources = resources;
  }

  /**
   * Starts everything, finds earlier pods again, and listens: on the configured socket, or on `listener`, a descriptor that listens
   * already. Throws when another daemon has the folder, socket or port.
   */
  static async start(config: Config, log: Log, listener?: number): Promise<Daemon> {
    await using resources = new AsyncDisposableStack();
    for (const folder of [config.root, config.state]) mkdirSync(folder, { recursive: true, mode: 0o711 });
    resources.use(lockFile(join(config.state, 'sluiced.lock')));
    resources.use(lockFile(join(config.root, 'sluiced.lock')));
    const watch = resources.use(createObservability({ config, jobs: JOB_TABLES, log }));
    const node = await makeNode(config, watch, resources);

    const began = performance.now();
    await node.images.recover();
    const recovered = await recover(node);
    node.metrics.set('restoreDuration', {}, (performance.now() - began) / 1000);
    for (const state of ['alive', 'dead', 'unknown', 'undone'] as const) {
      node.metrics.set('restored', { state }, recovered[state]);
    }
    void sweepNetwork(node);
    watchNode(node, watch);
    const server = new CriServer({
      socket: config.socket,
      listener,
      services: [
        { definition: withEncodedMetrics(RuntimeServiceService), verbs: runtimeVerbs(node) },
        { definition: ImageServiceService, verbs: imageVerbs(node) },
      ],
      onCall: (method, code, seconds) => node.metrics.grpc(method, code, seconds),
      onError: (method, error) => logFailure(log, method, error),
    });
    await server.listen();
    await watch.server?.listen();
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
    return new Daemon(node, server, resources.move());
  }

  /** One line of what it has and does. */
  get summary(): string {
    const pods = [...this.#node.store.sandboxes.values()].filter(({ state }) => state === 'ready');
    const lanes = Object.values(this.#node.admission.use);
    const sum = (of: 'running' | 'queued') => lanes.reduce((total, lane) => total + lane[of], 0);
    return `${pods.length} pods, ${sum('running')} jobs running, ${sum('queued')} queued`;
  }

  /** No new jobs; running ones finish; pods stay up. */
  async close(): Promise<void> {
    await this.#node.admission.close();
    this.#node.closing = true;
    this.#node.events.close();
    await this.#server.close(STREAM_GRACE_MS);
    await this.#resources.disposeAsync();
  }
}

async function makeNode(config: Config, watch: Observability, resources: AsyncDisposableStack): Promise<Node> {
  const { metrics, observer, log } = watch;
  const host = await readHostFacts(config.cgroup_driver);
  if (host.lowestOomScoreAdj > -1000) {
    log.warn(
      { lowest: host.lowestOomScoreAdj },
      'oom_score_adj cannot be lowered (no CAP_SYS_RESOURCE): lower values are clamped to this',
    );
  }
  if (host.apparmor) await loadDefaultAppArmorProfile();
  const pools = resources.use(startPools());
  const store = resources.use(
    new Store(join(config.root, 'sluice.db'), (seconds) => metrics.observe('storeWrite', {}, seconds)),
  );
  const checkpoint = async () => {
    try {
      await pools.shim.call('checkpoint', { path: store.path });
      store.restoreBallast();
    } catch (err) {
      log.error({ err }, 'the store’s checkpoint failed');
    }
  };
  const timer = setInterval(checkpoint, CHECKPOINT_MS).unref();
  resources.defer(() => clearInterval(timer));

  const shimSocketDir = join(config.state, 's');
  mkdirSync(shimSocketDir, { recursive: true, mode: 0o711 });
  const shimAddresses = {
    grpc: config.socket,
    ttrpc: join(config.state, 'events.sock'),
    publishBinary: process.execPath,
  };
  const node = new Node({
    config,
    host,
    features: await readAllFeatures(config, host, log),
    log,
    metrics,
    observer,
    store,
    pools,
    engine: new Engine({ limits: config.pipeline.limits, observer, undoTimeoutMs: UNDO_SECONDS * 1000 }),
    admission: new Admission({
      maxRunning: {
        launch: config.pipeline.max_running,
        teardown: config.pipeline.max_teardowns,
        image: config.pipeline.max_running,
      },
      maxQueued: config.pipeline.max_queued,
      onVerdict: (lane, verdict) => metrics.inc('admission', { lane, verdict }),
    }),
    cleaner: resources.use(
      new Cleaner({
        firstDelayMs: 1000,
        lastDelayMs: 300_000,
        onRetry: (outcome) => metrics.inc('cleanups', { outcome }),
      }),
    ),
    network: resources.use(await startNetwork(config, pools, watch)),
    images: new Images({
      config,
      pool: pools.image,
      ask: (question) => pools.registry.call('ask', question),
      images: store.images,
      layers: store.layers,
      log,
    }),
    shims: resources.use(
      new Shims({
        onLost: (pod) => log.warn({ sandbox: pod }, 'the connection to the pod’s shim broke'),
        onCall: (method, seconds) => metrics.shimCall(method, seconds),
      }),
    ),
    shimAddresses,
    shimSocketDir,
    events: new Events(nowNs, (dropped) => metrics.inc('eventsDropped', {}, dropped)),
    openFiles: openFiles(),
  });
  resources.use(node.stdio);
  const { url } = await node.stdio.listen(streamingOptions(config));
  log.info({ url }, 'streaming server listens');
  resources.use(
    await serveEvents({
      path: shimAddresses.ttrpc,
      onEvent: (event) => node.containers.onShimEvent(event),
      onError: (err) => log.warn({ err }, 'an event of a shim could not be read'),
    }),
  );
  return node;
}

function startNetwork({ cni, root }: Config, pools: Pools, { metrics, log }: Observability): Promise<Network> {
  return Network.start({
    cni,
    root,
    pool: pools.net,
    onPlugin: ({ plugin, command, outcome, seconds, spawnSeconds }) => {
      metrics.cni(plugin, command, outcome, seconds);
      metrics.observe('spawn', { kind: 'cni' }, spawnSeconds);
    },
    onChange: ({ network, problems }) => {
      if (network) metrics.cniPlugins(network.plugins.map(({ type }) => type));
      const about = { network: network?.name, source: network?.source, problems };
      if (!network) log.warn(about, 'no usable CNI configuration: only pods on the host network can be launched');
      else if (network.source === BUILT_IN) log.warn(about, 'no CNI configuration: using the built-in bridge network');
      else log.info(about, 'CNI configuration loaded');
    },
  });
}

function streamingOptions({ streaming }: Config): ListenInput {
  const { listen, tls_cert: cert, tls_key: key, idle_timeout_seconds: idle } = streaming;
  const tls = cert === SELF_SIGNED ? SELF_SIGNED : cert === '' ? undefined : { cert, key };
  return { address: listen, tls, idleTimeoutMs: idle * 1000 };
}

/** What the caller did wrong is not the daemon's trouble; what went wrong here is. */
function logFailure(log: Log, method: string, error: unknown): void {
  const expected = error instanceof SluiceError && error.code !== 'INTERNAL';
  if (expected) log.info({ method, code: error.code, err: error }, 'call failed');
  else log.error({ method, err: error }, 'call failed');
}
