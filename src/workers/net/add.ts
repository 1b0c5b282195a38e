import { SluiceError } from '../../errors.ts';
import { callPlugin, findPlugin } from './plugin.ts';
import { collectRuns } from './plugin-runs.ts';
import { lockRecord, writeRecord } from './record.ts';
import { inVersion, type ParsedResult, parseResult } from './result.ts';
import type { CniCall, CniResult, PluginRun } from './types.ts';

/**
 * CNI ADD: runs the plugins of the list in order, each with the result of the previous one as prevResult. Returns the
 * last result in the shape of the newest version. After a failure nothing is undone here: {@link cniDel} with the same
 * attachment undoes a complete and a partial ADD. Throws CNI_FAILED or TIMED_OUT, with the runs so far in `details`.
 */
export function cniAdd(call: CniCall): Promise<{ result: CniResult; plugins: PluginRun[] }> {
  return collectRuns(async (runs) => {
    const { attachment, binDirs, cacheDir, timeoutMs } = call;
    const { network, netns } = attachment;
    // A missing program is detected before anything is made, so that there is nothing to undo.
    for (const { type } of network.plugins) findPlugin(type, binDirs);
    await writeRecord(cacheDir, attachment);
    using locked = cacheDir === '' ? undefined : lockRecord(cacheDir, attachment);
    const lock = locked?.number;

    let last: ParsedResult | undefined;
    for (const plugin of network.plugins) {
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
    await writeRecord(cacheDir, attachment, inVersion(last, network.cniVersion));
    return { result: last.result };
  });
}
