import type { Config } from '../../node/config/config.ts';
import type { Images } from '../../node/images/images.ts';
import type { Network } from '../../node/network/network.ts';
import type { Log } from '../../node/observe/log.ts';
import type { Metrics } from '../../node/observe/metrics.ts';
import type { BundleSpecs } from '../../node/oci/bundle-specs.ts';
import type { HostFacts, RuntimeFeatures } from '../../node/oci/host.ts';
import type { Stats } from '../../node/stats/stats.ts';
import type { Events } from '../../node/store/events.ts';
import type { Store } from '../../node/store/store.ts';
import type { Stdio } from '../../node/streaming/stdio.ts';
import type { Containers } from '../../pipeline/jobs/containers.ts';
import type { Pods } from '../../pipeline/jobs/pods.ts';
import type { Pulls } from '../../pipeline/jobs/pulls.ts';
import type { ExecBackend } from '../../workers/stdio/protocol.ts';

/** All that the verbs use: what reads answer from, and the services whose jobs the mutating calls run. */
export interface CriServices {
  readonly config: Config;
  readonly host: Pick<HostFacts, 'cgroupDriver'>;
  /** By name in [runtimes]. */
  readonly features: Record<string, RuntimeFeatures>;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly store: Store;
  /** See JobContext. */
  readonly unclaimed: Set<string>;
  readonly events: Pick<Events, 'subscribe'>;
  readonly images: Pick<Images, 'find' | 'list' | 'remove' | 'isPinned' | 'fsInfo' | 'mountpoint' | 'snapshotterName'>;
  readonly network: Pick<Network, 'status' | 'loaded'>;
  /** Reasons why no pod can be run; empty when they can. */
  readonly health: { readonly reasons: readonly string[] };
  readonly specs: Pick<BundleSpecs, 'of'>;
  readonly stats: Pick<Stats, 'containers' | 'pods' | 'metrics'>;
  readonly stdio: Stdio;
  readonly execs: ExecBackend;
  readonly pods: Pick<Pods, 'run' | 'stop' | 'remove'>;
  readonly containers: Pick<Containers, 'create' | 'start' | 'stop' | 'remove' | 'update' | 'get' | 'running'>;
  readonly pulls: Pick<Pulls, 'pull'>;
}
