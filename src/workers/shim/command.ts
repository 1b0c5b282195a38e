/** The command line and the environment of the shim's program, for each of its actions. */
import type { DaemonAddresses } from './bootstrap.ts';
import { environment } from './program.ts';

/** What `start` and `delete` have in common. */
export interface ShimCall {
  id: string;
  namespace: string;
  addresses: DaemonAddresses;
  debug?: boolean;
  env?: Record<string, string>;
}

export function shimFlags({ id, namespace, addresses, debug }: ShimCall): string[] {
  return [
    ...['-namespace', namespace],
    ...['-address', addresses.grpc],
    ...['-publish-binary', addresses.publishBinary],
    ...['-id', id],
    ...(debug ? ['-debug'] : []),
  ];
}

export function shimEnv({ namespace, addresses, env }: ShimCall): Record<string, string> {
  return environment({
    // Two threads are enough, also for the long-lived process, which takes as many when nobody tells it (containerd says 4).
    GOMAXPROCS: '2',
    // Makes a 1.7 shim answer in JSON; containerd says 2 as well, version 3 included.
    MAX_SHIM_VERSION: '2',
    TTRPC_ADDRESS: addresses.ttrpc,
    GRPC_ADDRESS: addresses.grpc,
    NAMESPACE: namespace,
    ...env,
  });
}
