import { atLeast } from './cni-version.ts';
import { planLater } from './in-process/plan.ts';
import { confOf } from './in-process/step.ts';
import { callPlugin, findPlugin, PluginFailure } from './plugin.ts';
import { collectRuns } from './plugin-runs.ts';
import type { NetworkConf, PluginRun } from './types.ts';

interface StatusCall {
  network: NetworkConf;
  binDirs: string[];
  /** Milliseconds that one plugin may take. */
  timeoutMs: number;
  inProcess?: 'auto' | boolean;
}

/**
 * Checks that pods can be attached to this network: the programs of all plugins that are processes exist and, from
 * version 1.1.0 on, every plugin succeeds with STATUS. A plugin without STATUS (CNI code 4) counts as ready. Throws the
 * first failure.
 */
export function cniStatus(call: StatusCall): Promise<{ plugins: PluginRun[] }> {
  return collectRuns(async (runs) => {
    const { network, binDirs, timeoutMs, inProcess = false } = call;
    const works = await planLater(
      { network, binDirs, inProcess, confOf: (plugin) => confOf(plugin, network), asksMac: false },
      undefined,
    );
    // The IPAM type is not checked, because it need not be a program (the azure-cns type is part of its plugin).
    for (const [index, { type }] of network.plugins.entries()) if (!works[index]) await findPlugin(type, binDirs);
    if (!atLeast(network.cniVersion, '1.1.0')) return {};
    for (const [index, plugin] of network.plugins.entries()) {
      if (works[index]) continue;
      try {
        await callPlugin({ command: 'STATUS', plugin, network, binDirs, timeoutMs }, runs);
      } catch (error) {
        if (!(error instanceof PluginFailure && error.unknownVerb)) throw error;
      }
    }
    return {};
  });
}
