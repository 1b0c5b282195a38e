import { SluiceError } from '../../errors.ts';
import { netnsExists } from '../../sys/netns.ts';
import type { Json } from '../json.ts';
import { atLeast } from './cni-version.ts';
import { CNI_CODE, callPlugin, PluginFailure } from './plugin.ts';
import { collectRuns } from './plugin-runs.ts';
import { awaitUnlocked, readRecord, removeRecord } from './record.ts';
import { inVersion, parseResult } from './result.ts';
import type { CniCall, PluginConf, PluginRun } from './types.ts';

/** Messages of plugins that fail because the namespace or the interface no longer exists. */
const NOT_THERE = /not found|no such|does ?n[o']t exist|not exist|unknown container/i;

/**
 * CNI DEL: runs all plugins in reverse order, also after one fails. Then it throws the first error (CNI_FAILED or
 * TIMED_OUT) and keeps the record, so that the caller can try again. DEL is idempotent, also after a partial ADD and
 * without any ADD: a resource that no longer exists is not an error.
 */
export function cniDel(call: CniCall): Promise<{ plugins: PluginRun[] }> {
  return collectRuns(async (runs) => {
    const { attachment, binDirs, cacheDir, timeoutMs } = call;
    const { network } = attachment;
    const record = await readRecord(cacheDir, attachment);
    const finished = record === undefined || (record !== 'damaged' && record.result !== undefined);
    if (!finished) await awaitUnlocked(cacheDir, attachment, timeoutMs);
    const prevResult = record && record !== 'damaged' ? previous(record.result, network.cniVersion) : undefined;
    const alive = netnsExists(attachment.netns);

    const errors: Error[] = [];
    for (const plugin of network.plugins.toReversed()) {
      const netns = alive ? attachment.netns : '';
      try {
        await callPlugin({ command: 'DEL', plugin, network, attachment, netns, prevResult, binDirs, timeoutMs }, runs);
      } catch (error) {
        if (!(error instanceof Error)) throw error;
        if (!isGone(error, { alive, recorded: record !== undefined || cacheDir === '' })) errors.push(error);
      }
    }
    const [first, ...others] = errors;
    if (first) throw others.length === 0 ? first : together(first, others);
    await removeRecord(cacheDir, attachment);
    return {};
  });
}

/** True when the failure of a DEL means that there is nothing to delete. */
function isGone(error: Error, { alive, recorded }: { alive: boolean; recorded: boolean }): boolean {
  if (!(error instanceof PluginFailure)) return false;
  // ADD finds all programs and writes its record before it runs the first plugin: without a record, no plugin has run.
  if (!error.started) return !recorded && error.cause === undefined;
  if (error.cniCode === CNI_CODE.UNKNOWN_CONTAINER) return true;
  return !alive && error.code !== 'TIMED_OUT' && NOT_THERE.test(error.words);
}

/** The recorded result as `prevResult`, which DEL receives since 0.4.0. An invalid one is omitted, as in libcni. */
function previous(result: Json | undefined, version: PluginConf['type']): Json | undefined {
  if (!result || !atLeast(version, '0.4.0')) return undefined;
  try {
    return inVersion(parseResult(JSON.stringify(result), version), version);
  } catch {
    return undefined;
  }
}

function together(first: Error, others: Error[]): SluiceError {
  const code = first instanceof SluiceError ? first.code : 'CNI_FAILED';
  return new SluiceError(code, [first, ...others].map(({ message }) => message).join('; also: '), { cause: first });
}
