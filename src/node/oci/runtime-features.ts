import { explain } from '../../errors.ts';
import { findProgram } from '../../workers/shim/program.ts';
import type { Config } from '../config/config.ts';
import type { Log } from '../observe/log.ts';
import { type HostFacts, NO_FEATURES, type RuntimeFeatures } from './host.ts';
import { readRuntimeFeatures, shimMapsRootfs } from './read-host.ts';

/**
 * Features of each configured runtime, by its name; read once, at start. A runtime that is missing gets {@link
 * NO_FEATURES} and a warning in the log; pods that request it fail.
 */
export async function readAllFeatures(
  config: Config,
  host: HostFacts,
  log: Log,
): Promise<Record<string, RuntimeFeatures>> {
  const entries = Object.entries(config.runtimes).map(
    async ([name, { binary, shim }]): Promise<[string, RuntimeFeatures]> => {
      try {
        const features = await readRuntimeFeatures(await findProgram(binary, 'the runtime'), host.kernel);
        // User namespaces need both: the runtime makes idmapped mounts of volumes, the shim of root file systems.
        const idmap = features.idmap && (await shimMapsRootfs(await findProgram(shim, 'the shim')));
        return [name, { ...features, idmap }];
      } catch (error) {
        log.warn({ runtime: name, binary, reason: explain(error) }, 'the features of the runtime cannot be read');
        return [name, NO_FEATURES];
      }
    },
  );
  return Object.fromEntries(await Promise.all(entries));
}
