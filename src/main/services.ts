import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { nowNs } from '../clock.ts';
import { explain } from '../errors.ts';
import type { Config } from '../node/config/config.ts';
import { Images } from '../node/images/images.ts';
import { snapshotWorker } from '../node/images/snapshotters/worker.ts';
import { BUILT_IN } from '../node/network/builtin.ts';
import { Network } from '../node/network/network.ts';
import type { Log } from '../node/observe/log.ts';
import type { Metrics } from '../node/observe/metrics.ts';
import type { Observability } from '../node/observe/observability.ts';
import { BundleSpecs } from '../node/oci/bundle-specs.ts';
import { loadDefaultAppArmorProfile } from '../node/oci/load-apparmor.ts';
import { openFiles } from '../node/oci/open-files.ts';
import { readHostFacts } from '../node/oci/read-host.ts';
import { readAllFeatures } from '../node/oci/runtime-features.ts';
import { serveEvents } from '../node/shims/events.ts';
import { Shims } from '../node/shims/shims.ts';
import { Stats } from '../node/stats/stats.ts';
import { ContainerStates } from '../node/store/container.ts';
import { Events } from '../node/store/events.ts';
import { SandboxStates } from '../node/store/sandbox.ts';
import type { Store } from '../node/store/store.ts';
import { Stdio } from '../node/streaming/stdio.ts';
import { type Pools, startPools } from '../node/threads/pools.ts';
import { Admission } from '../pipeline/engine/admission.ts';
import { Engine } from '../pipeline/engine/engine.ts';
import { Locks } from '../pipeline/engine/lock.ts';
import { RetryQueue } from '../pipeline/engine/retry-queue.ts';
import { Runner } from '../pipeline/engine/runner.ts';
import { Containers } from '../pipeline/jobs/containers.ts';
import type { JobContext, JobServices } from '../pipeline/jobs/context.ts';
import { type ExecContext, Execs, StreamedExecs } from '../pipeline/jobs/execs.ts';
import { ExitWatch } from '../pipeline/jobs/exits.ts';
import { Pods } from '../pipeline/jobs/pods.ts';
import { Pulls } from '../pipeline/jobs/pulls.ts';
import { ReservedNames } from '../pipeline/jobs/reserved-names.ts';
import { usedImages } from '../pipeline/jobs/used-images.ts';
import { STAGES } from '../stages.ts';
import { HOLDER, heldPath } from '../sys/holder.ts';
import { giveWayToSweepers, makeRealtime, whyNotRealtime } from '../sys/realtime.ts';
import type { HostFiles } from '../workers/host-paths/read-file.ts';
import type { ListenInput } from '../workers/stdio/protocol.ts';
import { Health } from './health.ts';
import { openStore } from './open-store.ts';

/** As `streaming.tls_cert`: a certificate made at start. */
const SELF_SIGNED = 'self-signed';
/** Seconds that one undo may take. */
const UNDO_SECONDS = 120;
/**
 * Milliseconds after which a job, or a stage, that still runs gives its place to the next: many times what the slowest
 * one takes.
 */
const LEASE_MS = 10_000;
/** Runs of CNI plugins in one ADD or DEL that may each take their whole time limit before the stage is given up. */
const SLOW_PLUGIN_RUNS = 5;
/** Milliseconds before the first retry of a clean-up, and the longest pause between two. */
const RETRY_MS = { firstDelayMs: 1000, lastDelayMs: 300_000 };

/** Everything one daemon is made of. */
export interface Services extends JobContext {
  readonly events: Events;
  readonly stats: Stats;
  readonly execs: Execs;
  readonly pods: Pods;
  readonly containers: Containers;
  readonly pulls: Pulls;
  readonly engine: Engine;
  readonly admission: Admission;
  readonly locks: Locks;
  readonly retries: RetryQueue;
  readonly health: Health;
}

/**
 * Makes every service once and hands each what it uses. `ending` aborts when the daemon ends. What is to be closed goes
 * to `resources`.
 */
export async function makeServices(
  config: Config,
  { metrics, observer, log }: Observability,
  resources: AsyncDisposableStack,
  ending: AbortSignal,
): Promise<Services> {
  // Threads take longest until they work: they load while main goes on.
  const pools = resources.use(
    startPools((pool, err) => log.error({ pool, err }, 'a worker thread failed and is replaced')),
  );
  await using early = new AsyncDisposableStack();
  const stdio = early.use(
    new Stdio({
      execDir: join(config.state, 'execs'),
      realtime: makeMainRealtime(config, log, resources),
      // No exec comes before its container is known.
      get backend() {
        return streamedExecs;
      },
      onEvent: (event) => log.warn(event, 'event of the stdio worker'),
      onWorkerDied: (err) => log.error({ err }, 'the stdio worker died; it is restarted'),
    }),
  );
  const store = openStore({ config, pools, metrics, log, resources });
  const [{ host, features }, pinFolder, network, { url }] = await Promise.all([
    readHost(config, log),
    openPinFolder(config, pools, { log, resources }),
    startNetwork(config, pools, { metrics, log }).then((started) => resources.use(started)),
    stdio.listen(streamingOptions(config)),
  ]);
  log.info({ url }, 'streaming server listens');
  const events = new Events(nowNs, (dropped) => metrics.inc('eventsDropped', {}, dropped));
  const shimSocketDir = join(config.state, 's');
  mkdirSync(shimSocketDir, { recursive: true, mode: 0o700 });

  const basis: ExecContext = {
    config,
    host,
    features,
    openFiles: openFiles(),
    log,
    metrics,
    store,
    sandboxStates: new SandboxStates(store.sandboxes, events),
    containerStates: new ContainerStates(store.containers, events),
    unclaimed: new Set(),
    sandboxNames: new ReservedNames('sandbox'),
    containerNames: new ReservedNames('container'),
    pools,
    network,
    images: resources.use(makeImages(config, pools, store, { metrics, log })),
    specs: new BundleSpecs(),
    shims: resources.use(
      new Shims({
        onLost: (pod) => log.warn({ sandbox: pod }, 'the connection to the pod’s shim broke'),
        onCall: (method, seconds) => metrics.shimCall(method, seconds),
      }),
    ),
    shimAddresses: {
      grpc: config.socket,
      ttrpc: join(config.state, 'events.sock'),
      publishBinary: process.execPath,
    },
    shimSocketDir,
    pinFolder,
    ending,
  };
  const streamedExecs = new StreamedExecs(basis);
  resources.use(early.move()); // ends before what it calls
  const locks = new Locks((lock, mode, seconds) => metrics.observe('lockWait', { lock, mode }, seconds));
  const exits = new ExitWatch({ ...basis, stdio }, locks);
  const ctx: JobContext = { ...basis, stdio, exits };

  const retries = resources.use(
    new RetryQueue({
      ...RETRY_MS,
      onRetry: (outcome) => metrics.inc('cleanups', { outcome }),
      onProblem: (id, err) => log.error({ id, err }, 'a failed clean-up could not be noted'),
    }),
  );
  const engine = new Engine({
    limits: config.pipeline.limits,
    observer,
    undoTimeoutMs: UNDO_SECONDS * 1000,
    timeLimitsMs: {
      get network() {
        const pluginRuns = SLOW_PLUGIN_RUNS * config.cni.timeout_seconds; // a reload changes it
        return Math.max(STAGES.network.seconds, pluginRuns) * 1000;
      },
    },
    leaseMs: LEASE_MS,
    retries,
  });
  const { max_running: launch, max_teardowns: teardown, max_queued: maxQueued } = config.pipeline;
  const admission = new Admission({
    maxRunning: { launch, teardown, image: launch },
    maxQueued,
    leaseMs: { launch: LEASE_MS, teardown: LEASE_MS },
    onVerdict: (lane, verdict) => metrics.inc('admission', { lane, verdict }),
    onRun: (lane) => (lane === 'launch' ? pools.launches.begin() : undefined),
  });
  const jobs: JobServices = { ctx, runner: new Runner({ engine, observer, admission }), locks, retries };
  const pulls = new Pulls(jobs);
  const containers = new Containers(jobs);
  const pods = new Pods(jobs, { containers, pulls });
  const execs = new Execs(basis);

  resources.use(
    await serveEvents({
      path: basis.shimAddresses.ttrpc,
      onEvent: (event) => exits.onShimEvent(event),
      onError: (err) => log.warn({ err }, 'an event of a shim could not be read'),
    }),
  );
  const stats = new Stats({
    worker: {
      readStats: (input) => pools.shim.call('readStats', input),
      diskUsage: (input) => pools.shim.call('diskUsage', input),
    },
    onProblem: (what, problem) => log.warn({ what, problem }, 'stats could not be read in full'),
  });
  const health = resources.use(new Health({ config, pools, stdio, store, log }));
  return { ...ctx, events, stats, execs, pods, containers, pulls, engine, admission, locks, retries, health };
}

/** What the services report to. */
interface Reports {
  metrics: Metrics;
  log: Log;
}

/** Files that an operator names, read in the shim pool. */
export const filesOf = ({ shim }: Pools): HostFiles => ({
  names: (path) => shim.call('hostNames', { path }),
  read: (path, maxBytes) => shim.call('hostFile', { path, maxBytes }),
});

/** What the host and the configured runtimes can do. */
async function readHost(config: Config, log: Log): Promise<Pick<ExecContext, 'host' | 'features'>> {
  const host = await readHostFacts(config.cgroup_driver);
  if (host.lowestOomScoreAdj > -1000) {
    log.warn(
      { lowest: host.lowestOomScoreAdj },
      'oom_score_adj cannot be lowered (no CAP_SYS_RESOURCE): lower values are clamped to this',
    );
  }
  const [features] = await Promise.all([
    readAllFeatures(config, host, log),
    host.apparmor ? loadDefaultAppArmorProfile() : undefined,
  ]);
  return { host, features };
}

/**
 * The folder in which the IPC and UTS namespaces of pods without a process are pinned. A holder that is empty when the
 * daemon ends goes with it, so that the folders of a daemon without pods can be removed.
 */
async function openPinFolder(
  { state }: Config,
  pools: Pools,
  { log, resources }: { log: Log; resources: AsyncDisposableStack },
): Promise<string> {
  const folder = join(state, HOLDER);
  // Rejects when the thread has ended, stranded in a namespace.
  const problem = await pools.net.call('openHolder', { folder }).catch(explain);
  if (problem !== undefined) {
    log.warn(
      { problem },
      'namespaces of pods are held in the mount table of the host, which slows launches on full nodes',
    );
    return join(state, 'ns');
  }
  resources.defer(() =>
    pools.net.call('dropHolder', { folder }).catch((err: unknown) => {
      log.warn({ err }, 'the empty holder of namespaces stays');
    }),
  );
  return heldPath(folder, '');
}

function startNetwork({ cni, root }: Config, pools: Pools, { metrics, log }: Reports): Promise<Network> {
  return Network.start({
    cni,
    root,
    pool: pools.net,
    files: filesOf(pools),
    onPlugin: ({ plugin, command, outcome, seconds, spawnSeconds }) => {
      metrics.cni(plugin, command, outcome, seconds);
      // A plugin that ran in process has started none.
      if (spawnSeconds > 0) metrics.observe('spawn', { kind: 'cni' }, spawnSeconds);
    },
    onNote: (note) => log.warn(note),
    onChange: ({ network, problems }) => {
      if (network) metrics.cniPlugins(network.plugins.map(({ type }) => type));
      const about = { network: network?.name, source: network?.source, problems };
      if (!network) log.warn(about, 'no usable CNI configuration: only pods on the host network can be launched');
      else if (network.source === BUILT_IN) log.warn(about, 'no CNI configuration: using the built-in bridge network');
      else log.info(about, 'CNI configuration loaded');
    },
  });
}

function makeImages(config: Config, pools: Pools, store: Store, { metrics, log }: Reports): Images {
  return new Images({
    config,
    pool: pools.image,
    files: filesOf(pools),
    ask: (question) => pools.registry.call('ask', question),
    images: store.images,
    layers: store.layers,
    log,
    usedImages: () => usedImages(store),
    diskUsage: (folder) => pools.shim.call('diskUsage', { folder }),
    lookUpUser: (input) => pools.shim.call('lookUpUser', input),
    removeLayer: (dir) => pools.shim.call('removeLayer', { dir }),
    snapshots: snapshotWorker(pools),
    warmRegistry: () => pools.registry.call('warm', undefined),
    installPause: (dir) => pools.shim.call('installPause', { dir }),
    onLayer: (result) => metrics.inc('imageLayers', { result }),
    onFetched: ({ seconds, waited, paused, error, downloaded, unpacked }) => {
      const outcome = error ? 'error' : 'ok';
      metrics.observe('imagePhase', { phase: 'layer', outcome }, seconds);
      if (!error) {
        metrics.observe('imagePhase', { phase: 'download', outcome }, waited);
        metrics.observe('imagePhase', { phase: 'pause', outcome }, paused);
        metrics.observe('imagePhase', { phase: 'unpack', outcome }, seconds - waited - paused);
      }
      metrics.inc('imageBytes', { kind: 'downloaded' }, downloaded);
      metrics.inc('imageBytes', { kind: 'unpacked' }, unpacked);
    },
    onCollected: (bytes) => metrics.inc('imageBytes', { kind: 'collected' }, Math.max(0, bytes)),
    onSynced: (seconds) => metrics.observe('imagePhase', { phase: 'sync', outcome: 'ok' }, seconds),
    onRetry: () => metrics.inc('imageRetries', {}),
  });
}

function streamingOptions({ streaming }: Config): ListenInput {
  const { listen, tls_cert: cert, tls_key: key, idle_timeout_seconds: idle } = streaming;
  const tls = cert === SELF_SIGNED ? SELF_SIGNED : cert === '' ? undefined : { cert, key };
  return { address: listen, tls, idleTimeoutMs: idle * 1000 };
}

/** Whether main is a real-time thread now. */
function makeMainRealtime({ pipeline }: Config, log: Log, resources: AsyncDisposableStack): boolean {
  if (!pipeline.realtime) return false;
  const reason = whyNotRealtime() ?? makeRealtime(process.pid);
  if (reason !== undefined)
    log.warn({ reason }, 'the main thread is no real-time thread: answers will be later while pods are launched');
  else
    resources.use(
      giveWayToSweepers(process.pid, (why) => log.warn({ reason: why }, 'the main thread keeps its scheduling policy')),
    );
  return reason === undefined;
}
