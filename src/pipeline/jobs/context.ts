import { SluiceError } from '../../errors.ts';
import type { Config, RuntimeConfig } from '../../node/config/config.ts';
import type { Images } from '../../node/images/images.ts';
import type { Network } from '../../node/network/network.ts';
import type { Log } from '../../node/observe/log.ts';
import type { Metrics } from '../../node/observe/metrics.ts';
import type { OpenFiles } from '../../node/oci/base.ts';
import type { BundleSpecs } from '../../node/oci/bundle-specs.ts';
import { type HostFacts, NO_FEATURES, type RuntimeFeatures } from '../../node/oci/host.ts';
import type { Shim, Shims } from '../../node/shims/shims.ts';
import type { ContainerRow, ContainerStates, End } from '../../node/store/container.ts';
import type { SandboxRow, SandboxStates } from '../../node/store/sandbox.ts';
import type { Store } from '../../node/store/store.ts';
import type { Stdio } from '../../node/streaming/stdio.ts';
import type { Pools } from '../../node/threads/pools.ts';
import type { DaemonAddresses } from '../../workers/shim/bootstrap.ts';
import type { Locks } from '../engine/lock.ts';
import type { RetryQueue } from '../engine/retry-queue.ts';
import type { Runner } from '../engine/runner.ts';
import type { JobState as EngineState } from '../engine/stage.ts';
import type { ReservedNames } from './reserved-names.ts';

/** Records the ends of what runs; implemented in exits.ts. */
export interface Exits {
  /** From now on the end of the sandbox's pause process makes it not ready. */
  watchSandbox(row: SandboxRow, shim: Shim): void;
  /** From now on the container's end is recorded: log drained, exit code and reason stored, task deleted. */
  watchContainer(row: ContainerRow, shim: Shim): void;
  /** The container counts as watched until `ended` resolves, when its end is recorded by whoever calls this. */
  watchEnd(id: string, ended: Promise<void>): void;
  /** True while the container is watched. */
  watches(id: string): boolean;
  /** Resolves when the container's end is recorded; at once when it is not watched. */
  containerEnded(id: string): Promise<void>;
  /**
   * True when the stop signal was sent before. The call counts as sending it: it goes out once, however many callers
   * stop the container.
   */
  stopSignalled(id: string): boolean;
  /** Records that the daemon itself sends SIGKILL: an exit code of 137 is then no OOM kill. */
  killing(id: string): void;
  /** Records an end that nothing watches: `end`, or what the row has noted already. */
  recordEnd(row: ContainerRow, end?: End): void;
}

/** The services of the node that stages and undos use. */
export interface JobContext {
  readonly config: Config;
  readonly host: HostFacts;
  /** By name in [runtimes]. */
  readonly features: Record<string, RuntimeFeatures>;
  /** RLIMIT_NOFILE of containers; undefined: what the daemon itself has. */
  readonly openFiles: OpenFiles | undefined;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly store: Store;
  readonly sandboxStates: SandboxStates;
  readonly containerStates: ContainerStates;
  /**
   * Ids of sandboxes and containers whose callers left before they were done. Any use of an id claims it (lookup.ts);
   * one that is not claimed within claim_ttl is removed.
   */
  readonly unclaimed: Set<string>;
  readonly sandboxNames: ReservedNames;
  readonly containerNames: ReservedNames;
  readonly pools: Pools;
  readonly network: Network;
  readonly images: Images;
  readonly specs: BundleSpecs;
  readonly shims: Shims;
  /** Where shims reach the daemon, and the folder of their own sockets. */
  readonly shimAddresses: DaemonAddresses;
  readonly shimSocketDir: string;
  /**
   * Folder of the IPC and UTS namespaces of pods without a process: one in a holder (src/sys/holder.ts), or a plain
   * one.
   */
  readonly pinFolder: string;
  readonly stdio: Stdio;
  readonly exits: Exits;
  /** Aborts when the daemon ends: connections that close from then on were closed by the daemon. */
  readonly ending: AbortSignal;
}

export type JobState<R> = EngineState<R, JobContext>;

/** What the job services (Pods, Containers, Pulls) share. */
export interface JobServices {
  ctx: JobContext;
  runner: Runner;
  /** By sandbox id and by container id. */
  locks: Locks;
  retries: RetryQueue;
}

/** The configured runtime of a sandbox. Throws UNKNOWN_RUNTIME when it was removed from the configuration since. */
export function runtimeOf(row: SandboxRow, { config }: Pick<JobContext, 'config'>): RuntimeConfig {
  const runtime = config.runtimes[row.runtime];
  if (!runtime) throw SluiceError.of('UNKNOWN_RUNTIME', row.runtime);
  return runtime;
}

export function featuresOf(row: SandboxRow, { features }: JobContext): RuntimeFeatures {
  return features[row.runtime] ?? NO_FEATURES;
}
