import { join } from 'node:path';
import type { RuntimeConfig } from '../../node/config/config.ts';
import type { RuntimeOptions } from '../../node/shims/task.ts';
import type { JobContext } from './context.ts';

/**
 * How the shim calls the OCI runtime. The runtime's root folder belongs to this daemon alone, so that two daemons share
 * no container id.
 */
export function runtimeOptions(
  { config, host }: Pick<JobContext, 'config' | 'host'>,
  runtime: RuntimeConfig,
): RuntimeOptions {
  return {
    binary: runtime.binary,
    root: runtime.runtime_root || join(config.state, 'runtime'),
    systemdCgroup: host.cgroupDriver === 'systemd',
  };
}
