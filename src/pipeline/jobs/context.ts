import { join } from 'node:path';
import { SluiceError } from '../../errors.ts';
import type { Config, RuntimeConfig } from '../../node/config/config.ts';
import type { Images } from '../../node/images/images.ts';
import type { Network } from '../../node/network/network.ts';
import type { Log } from '../../node/observe/log.ts';
import type { Metrics } from '../../node/observe/metrics.ts';
import type { OpenFiles } from '../../node/oci/base.ts';
import { Specs } from '../../node/oci/bundle-specs.ts';
import { type HostFacts, NO_FEATURES, type RuntimeFeatures } from '../../node/oci/host.ts';
import type { Shims } from '../../node/shims/shims.ts';
import { Stats } from '../../node/stats/stats.ts';
import type { Events } from '../../node/store/events.ts';
import type { SandboxRow } from '../../node/store/rows.ts';
import type { Store } from '../../node/store/store.ts';
import { Stdio } from '../../node/streaming/stdio.ts';
import type { Pools } from '../../node/threads/pools.ts';
import type { DaemonAddresses } from '../../workers/shim/bootstrap.ts';
import type { Admission } from '../engine/admission.ts';
import type { Engine } from '../engine/engine.ts';
import { Locks } from '../engine/lock.ts';
import type { JobObserver } from '../engine/observer.ts';
import type { Cleaner } from '../engine/retry-queue.ts';
import { Containers } from './containers.ts';
import { Execs, StreamedExecs } from './execs.ts';
import { Monitor } from './exits.ts';
import { Names } from './names.ts';
import { Pods } from './pods.ts';
import { Pulls } from './pulls.ts';

/** What the daemon is made of before any job service exists. */
export interface NodeParts {
  config: Config;
  host: HostFacts;
  /** By name in [runtimes]. */
  features: Record<string, RuntimeFeatures>;
  log: Log;
  metrics: Metrics;
  observer: JobObserver;
  store: Store;
  pools: Pools;
  engine: Engine;
  admission: Admission;
  cleaner: Cleaner;
  network: Network;
  images: Images;
  shims: Shims;
  /** Where shims find the daemon, and where they put their sockets. */
  shimAddresses: DaemonAddresses;
  shimSocketDir: string;
  events: Events;
  /** RLIMIT_NOFILE of containers; undefined: what the daemon itself has. */
  openFiles: OpenFiles | undefined;
}

/** Everything the jobs of one daemon work with. */
export class Node implements NodeParts {
  readonly config: Config;
  readonly host: HostFacts;
  readonly features: Record<string, RuntimeFeatures>;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly observer: JobObserver;
  readonly store: Store;
  readonly pools: Pools;
  readonly engine: Engine;
  readonly admission: Admission;
  readonly cleaner: Cleaner;
  readonly network: Network;
  readonly images: Images;
  readonly shims: Shims;
  readonly shimAddresses: DaemonAddresses;
  readonly shimSocketDir: string;
  readonly events: Events;
  readonly openFiles: OpenFiles | undefined;
  readonly monitor: Monitor;
  readonly specs = new Specs();
  readonly execs: Execs;
  readonly stdio: Stdio;
  readonly stats: Stats;
  /** By sandbox id. */
  readonly locks = new Locks();
  readonly sandboxNames = new Names();
  readonly containerNames = new Names();
  readonly pods: Pods;
  readonly containers: Containers;
  readonly pulls: Pulls;
  /** The daemon is ending: what closes now was closed by us. */
  closing = false;

  constructor(parts: NodeParts) {
    this.config = parts.config;
    this.host = parts.host;
    this.features = parts.features;
    this.log = parts.log;
    this.metrics = parts.metrics;
    this.observer = parts.observer;
    this.store = parts.store;
    this.pools = parts.pools;
    this.engine = parts.engine;
    this.admission = parts.admission;
    this.cleaner = parts.cleaner;
    this.network = parts.network;
    this.images = parts.images;
    this.shims = parts.shims;
    this.shimAddresses = parts.shimAddresses;
    this.shimSocketDir = parts.shimSocketDir;
    this.events = parts.events;
    this.openFiles = parts.openFiles;
    this.monitor = new Monitor(this);
    this.execs = new Execs(this);
    this.stdio = startStdio(this);
    this.stats = makeStats(this);
    this.pulls = new Pulls(this);
    this.containers = new Containers(this);
    this.pods = new Pods(this);
  }

  /** The configured runtime of a pod. Throws UNKNOWN_RUNTIME when it was taken out of the configuration since. */
  runtimeOf(row: SandboxRow): RuntimeConfig {
    const runtime = this.config.runtimes[row.runtime];
    if (!runtime) throw new SluiceError('UNKNOWN_RUNTIME', `the runtime "${row.runtime}" is not configured any more`);
    return runtime;
  }

  featuresOf(row: SandboxRow): RuntimeFeatures {
    return this.features[row.runtime] ?? NO_FEATURES;
  }
}

function startStdio(node: Node): Stdio {
  const { log, config } = node;
  return new Stdio({
    execDir: join(config.state, 'execs'),
    backend: new StreamedExecs(node),
    onEvent: (event) => log.warn(event, 'the stdio worker tells'),
    onWorkerDied: (err) => log.error({ err }, 'the stdio worker died; it is restarted'),
  });
}

function makeStats({ pools, log }: Node): Stats {
  return new Stats({
    worker: {
      readStats: (input) => pools.shim.call('readStats', input),
      diskUsage: (input) => pools.shim.call('diskUsage', input),
    },
    onProblem: (what, problem) => log.warn({ what, problem }, 'stats could not be read in full'),
  });
}
