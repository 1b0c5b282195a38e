import { explain } from '../../errors.ts';
import { findProgram } from '../../workers/shim/program.ts';
import type { Config } from '../config/config.ts';
import type { Log } from '../observe/log.ts';
import { type HostFacts, NO_FEATURES, type RuntimeFeatures } from './host.ts';
import { readRuntimeFeatures, shimMapsRootfs } from './read-host.ts';

/** What each configured runtime can do, asked once at start. A runtime that is missing is told of when a pod wants it. */
export async function readAllFeatures(
  config: Config,
  host: HostFacts,
  log: Log,
): Promise<Record<string, RuntimeFeatures>> {
  const entries = Object.entries(config.runtimes).map(
    async ([name, { binary, shim }]): Promise<[string, RuntimeFeatures]> => {
      try {
        const features = await readRuntimeFeatures(findProgram(binary, 'the runtime').path, host.kernel);
        // Pods with a user namespace need both: the runtime maps their volumes, the shim their root file systems.
        const idmap = features.idmap && (await shimMapsRootfs(findProgram(shim, 'the shim').path));
        return [name, { ...features, idmap }];
      } catch (error) {
        log.warn({ runtime: name, binary, reason: explain(error) }, 'the runtime does not tell its features');
        return [name, NO_FEATURES];
      }
    },
  );
  return Object.fromEntries(await Promise.all(entries));
}
