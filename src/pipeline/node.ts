import { join } from 'node:path';
import { SluiceError } from '../errors.ts';
import type { Config, RuntimeConfig } from '../main/config/config.ts';
import type { Events } from '../main/events.ts';
import type { Images } from '../main/images/images.ts';
import type { Network } from '../main/network/network.ts';
import type { Log } from '../main/observe/log.ts';
import type { Metrics } from '../main/observe/metrics.ts';
import type { OpenFiles } from '../main/oci/base.ts';
import { type HostFacts, NO_FEATURES, type RuntimeFeatures } from '../main/oci/host.ts';
import type { Shims } from '../main/shims/shims.ts';
import { Stats } from '../main/stats/stats.ts';
import type { SandboxRow } from '../main/store/rows.ts';
import type { Store } from '../main/store/store.ts';
import { Stdio } from '../main/streaming/stdio.ts';
import type { DaemonAddresses } from '../workers/shim/bootstrap.ts';
import type { Admission } from './admission.ts';
import type { Cleaner } from './cleaner.ts';
import { Containers } from './containers.ts';
import type { Engine } from './engine.ts';
import { Execs, StreamedExecs } from './execs.ts';
import { Locks } from './lock.ts';
import { Monitor } from './monitor.ts';
import { Names } from './names.ts';
import type { JobObserver } from './observer.ts';
import { Pods } from './pods.ts';
import type { Pools } from './pools.ts';
import { Pulls } from './pulls.ts';
import { Specs } from './specs.ts';

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
