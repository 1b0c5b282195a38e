import { accessSync, readFileSync } from 'node:fs';
import type { Config } from '../config/config.ts';
import { readHostFacts } from '../oci/read-host.ts';
import type { Finding, MachineFiles } from './finding.ts';
import { kernelFindings } from './kernel.ts';
import { limitFindings } from './limits.ts';
import { nodeFindings } from './node.ts';

const FILES: MachineFiles = {
  read(path) {
    try {
      return readFileSync(path, 'utf8').trimEnd();
    } catch {
      return undefined; // what cannot be read is a finding of its own
    }
  },
  exists(path) {
    try {
      accessSync(path);
      return true;
    } catch {
      return false;
    }
  },
};

/**
 * Everything about this machine that a node of this configuration needs. Starts runtimes and shims for their versions.
 */
export async function examineMachine(config: Config): Promise<Finding[]> {
  const host = await readHostFacts(config.cgroup_driver);
  return [...kernelFindings(host, FILES), ...limitFindings(FILES), ...(await nodeFindings(config, FILES))];
}
