import { CNI_CODE, callPlugin, findPlugin, PluginFailure } from './plugin.ts';
import { collectRuns } from './plugin-runs.ts';
import type { NetworkConf, PluginRun } from './types.ts';
import { atLeast } from './version.ts';

export interface StatusCall {
  network: NetworkConf;
  binDirs: string[];
  /** Milliseconds that one plugin may take. */
  timeoutMs: number;
}

/**
 * Can pods be attached to this network? All programs have to be there; from 1.1.0 on each plugin is asked with STATUS, and one
 * that does not know the verb has no objection. Throws the first reason against it.
 */
export function cniStatus({ network, binDirs, timeoutMs }: StatusCall): Promise<{ plugins: PluginRun[] }> {
  return collectRuns(async (runs) => {
    // Not IPAM's: its type need not be a program (azure-cns is served by the plugin itself).
    for (const { type } of network.plugins) findPlugin(type, binDirs);
    if (!atLeast(network.cniVersion, '1.1.0')) return {};
    for (const plugin of network.plugins) {
      try {
        await callPlugin({ command: 'STATUS', plugin, network, binDirs, timeoutMs }, runs);
      } catch (error) {
        const unknownVerb = error instanceof PluginFailure && error.cniCode === CNI_CODE.INVALID_ENVIRONMENT;
        if (!unknownVerb) throw error;
      }
    }
    return {};
  });
}
