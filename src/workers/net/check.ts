import { SluiceError } from '../../errors.ts';
import { atLeast } from './cni-version.ts';
import { planLater } from './in-process/plan.ts';
import { checkStep, confOf } from './in-process/step.ts';
import { callPlugin } from './plugin.ts';
import { collectRuns } from './plugin-runs.ts';
import { readRecord } from './record.ts';
import { inVersion, previousResult } from './result.ts';
import type { CniCall, NetworkConf, PluginRun } from './types.ts';

/** Does CHECK do anything for this configuration? */
export const isChecked = ({ disableCheck, cniVersion }: NetworkConf): boolean =>
  !disableCheck && atLeast(cniVersion, '0.4.0');

/**
 * CNI CHECK: asks every plugin of the list whether what ADD made is still there, with the result of ADD as prevResult
 * (specification, section 2; since 0.4.0). A configuration with `disableCheck` is not checked. Throws the first
 * failure: CNI_FAILED, also when there is no record of the ADD, or TIMED_OUT.
 */
export function cniCheck(call: CniCall): Promise<{ plugins: PluginRun[] }> {
  return collectRuns(async (runs) => {
    const { attachment, binDirs, cacheDir, timeoutMs, inProcess = false } = call;
    const { network, netns } = attachment;
    if (!isChecked(network)) return {};
    const record = readRecord(cacheDir, attachment);
    const intact = record === 'damaged' ? undefined : record;
    const last = previousResult(intact?.result, network.cniVersion);
    if (!last) {
      throw new SluiceError('CNI_FAILED', `network ${network.name} has no result of ADD for ${attachment.containerId}`);
    }
    const works = await planLater(
      { network, binDirs, inProcess, confOf: (plugin) => confOf(plugin, network, attachment), asksMac: false },
      intact?.inProcess ?? [],
    );
    const prevResult = inVersion(last, network.cniVersion);
    for (const [index, plugin] of network.plugins.entries()) {
      const work = works[index];
      const step = { plugin, network, attachment, netns, binDirs, timeoutMs };
      if (work) await checkStep(work, { ...step, prevResult: last }, runs);
      else await callPlugin({ command: 'CHECK', ...step, prevResult }, runs);
    }
    return {};
  });
}
