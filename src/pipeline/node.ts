import type { Logger } from 'pino';
import type { Config } from '../main/config/config.ts';
import type { Events } from '../main/events.ts';
import type { Images } from '../main/images/images.ts';
import type { Network } from '../main/network/network.ts';
import type { Metrics } from '../main/observe/metrics.ts';
import type { HostFacts } from '../main/oci/host.ts';
import type { Shims } from '../main/shims/shims.ts';
import type { Store } from '../main/store/store.ts';
import type { Admission } from './admission.ts';
import type { Cleaner } from './cleaner.ts';
import type { Containers } from './containers.ts';
import type { Engine } from './engine.ts';
import type { Locks } from './lock.ts';
import type { Names } from './names.ts';
import type { JobObserver } from './observer.ts';
import type { Pods } from './pods.ts';
import type { Pools } from './pools.ts';
import type { Pulls } from './pulls.ts';

/** Everything the jobs of one daemon work with. Made once, in src/main/daemon.ts. */
export interface Node {
  config: Config;
  host: HostFacts;
  log: Logger;
  metrics: Metrics;
  observer: JobObserver;
  store: Store;
  pools: Pools;
  engine: Engine;
  admission: Admission;
  cleaner: Cleaner;
  /** By sandbox id. */
  locks: Locks;
  sandboxNames: Names;
  containerNames: Names;
  network: Network;
  images: Images;
  shims: Shims;
  events: Events;
  pods: Pods;
  containers: Containers;
  pulls: Pulls;
}
