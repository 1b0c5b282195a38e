/** The command line and the environment of the shim's program, for each of its commands. */
import type { DaemonAddresses } from './bootstrap.ts';
import { environment } from './program.ts';

/** Parameters that `start` and `delete` have in common. */
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
    // Two threads suffice, also for the long-lived process, which uses one per core when this is unset (containerd sets
    // 4).
    GOMAXPROCS: '2',
    // Makes a 1.7 shim print JSON; containerd sets 2 as well, although version 3 exists.
    MAX_SHIM_VERSION: '2',
    TTRPC_ADDRESS: addresses.ttrpc,
    GRPC_ADDRESS: addresses.grpc,
    NAMESPACE: namespace,
    ...env,
  });
}
