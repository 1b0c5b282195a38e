import { SluiceError } from '../../errors.ts';
import { planAdd } from './in-process/plan.ts';
import { addStep, confOf } from './in-process/step.ts';
import { callPlugin, findPlugin } from './plugin.ts';
import { collectRuns } from './plugin-runs.ts';
import { openRecord } from './record.ts';
import { inVersion, type ParsedResult, parseResult } from './result.ts';
import type { CniCall, CniResult, PluginRun } from './types.ts';

export interface Added {
  result: CniResult;
  plugins: PluginRun[];
  /** What was done otherwise than was to be expected, in sentences to log once. */
  notes: string[];
}

/**
 * CNI ADD: the plugins of the list in order, each with the result of the one before; in this thread or as processes.
 * The answer is the last one's, in the newest shape. A failure leaves everything as it is: {@link cniDel} with the same
 * attachment takes it back, half done or not. Throws CNI_FAILED or TIMED_OUT, with the runs so far in `details`.
 */
export function cniAdd(call: CniCall): Promise<Added> {
  return collectRuns(async (runs) => {
    const { attachment, binDirs, cacheDir, timeoutMs, inProcess = false } = call;
    const { network, netns } = attachment;
    const { works, types, notes } = await planAdd({
      network,
      binDirs,
      inProcess,
      confOf: (plugin) => confOf(plugin, network, attachment),
      asksMac: attachment.args.some(([key, value]) => key.toUpperCase() === 'MAC' && value !== ''),
    });
    // A missing program is found before anything was made, so that there is nothing to take back either.
    for (const [index, { type }] of network.plugins.entries()) if (!works[index]) await findPlugin(type, binDirs);
    const mark = types.length > 0 ? { inProcess: types } : {};
    using record = cacheDir === '' ? undefined : openRecord(cacheDir, attachment);
    record?.write(mark);
    const { lock, isNew } = record ?? { isNew: false };

    let last: ParsedResult | undefined;
    for (const [index, plugin] of network.plugins.entries()) {
      const work = works[index];
      if (work) {
        const step = { plugin, network, attachment, netns, prevResult: last, isNew, binDirs, timeoutMs, lock };
        last = await addStep(work, step, runs);
        continue;
      }
      const prevResult = last && inVersion(last, network.cniVersion);
      const text = await callPlugin(
        { command: 'ADD', plugin, network, attachment, netns, prevResult, binDirs, timeoutMs, lock },
        runs,
      );
      try {
        last = parseResult(text, network.cniVersion);
      } catch (cause) {
        const run = runs.at(-1);
        if (run) run.outcome = 'error';
        throw new SluiceError('CNI_FAILED', `plugin ${plugin.type} (ADD, network ${network.name})`, { cause });
      }
    }
    if (!last) throw new SluiceError('CNI_FAILED', `network ${network.name} has no plugins`);
    record?.write({ result: inVersion(last, network.cniVersion), ...mark });
    return { result: last.result, notes };
  });
}
