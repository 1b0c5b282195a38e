import { join } from 'node:path';
import type { RuntimeConfig } from '../../node/config/config.ts';
import type { RuntimeOptions } from '../../node/shims/task.ts';
import type { Node } from './context.ts';

/** How the shim is to call the OCI runtime. The runtime's root is ours alone, so that two daemons share no container id. */
export function runtimeOptions(node: Node, runtime: RuntimeConfig): RuntimeOptions {
  return {
    binary: runtime.binary,
    root: runtime.runtime_root || join(node.config.state, 'runtime'),
    systemdCgroup: node.host.cgroupDriver === 'systemd',
  };
}
