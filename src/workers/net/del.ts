import { SluiceError } from '../../errors.ts';
import { netnsExists } from '../../sys/netns.ts';
import { atLeast } from './cni-version.ts';
import { planLater } from './in-process/plan.ts';
import { confOf, delStep, heldLinkStep } from './in-process/step.ts';
import { CNI_CODE, callPlugin, PluginFailure } from './plugin.ts';
import { collectRuns } from './plugin-runs.ts';
import { findTool } from './programs.ts';
import { awaitUnlocked, markDeleted, readRecord, removeRecord } from './record.ts';
import type { Deferred } from './release.ts';
import { inVersion, previousResult } from './result.ts';
import type { CniCall, PluginRun } from './types.ts';

/** Messages of plugins that fail because the namespace or the interface no longer exists. */
const NOT_THERE = /not found|no such|does ?n[o']t exist|not exist|unknown container/i;

/**
 * CNI DEL: runs all plugins in reverse order, also after one fails. Then it throws the first error (CNI_FAILED or
 * TIMED_OUT) and keeps the record, so that the caller can try again. DEL is idempotent, also after a partial ADD and
 * without any ADD: a resource that no longer exists is not an error.
 *
 * With `lazy`, where the plugins run in this thread, the pod's link is left to the end of its namespace, and what must
 * not be used again before that is returned as `deferred`, for {@link cniRelease}; the record stays until then.
 */
export function cniDel(call: CniCall & { lazy?: boolean }): Promise<{ deferred?: Deferred; plugins: PluginRun[] }> {
  return collectRuns(async (runs) => {
    const { attachment, binDirs, cacheDir, timeoutMs, inProcess = false, lazy = false } = call;
    const { network } = attachment;
    const record = readRecord(cacheDir, attachment);
    const finished = record === undefined || (record !== 'damaged' && record.result !== undefined);
    if (!finished) await awaitUnlocked(cacheDir, attachment, timeoutMs);
    const intact = record === 'damaged' ? undefined : record;
    const last = previousResult(intact?.result, network.cniVersion);
    // Plugins receive the result of ADD since 0.4.0.
    const prevResult = last && atLeast(network.cniVersion, '0.4.0') ? inVersion(last, network.cniVersion) : undefined;
    const works = await planLater(
      { network, binDirs, inProcess, confOf: (plugin) => confOf(plugin, network, attachment), asksMac: false },
      // A record without the key is of an ADD that ran processes only.
      intact ? (intact.inProcess ?? []) : undefined,
    );
    const alive = netnsExists(attachment.netns);

    const errors: Error[] = [];
    let deferred: Deferred | undefined;
    for (const [index, plugin] of [...network.plugins.entries()].reverse()) {
      const netns = alive ? attachment.netns : '';
      const work = works[index];
      try {
        if (work) {
          const step = { plugin, network, attachment, netns, prevResult: last, binDirs, timeoutMs };
          const link = lazy && intact ? heldLinkStep(work, step, runs) : undefined;
          if (link !== undefined && (deferred === undefined || deferred.link === link)) {
            deferred = { link, plugins: [...(deferred?.plugins ?? []), index] };
            continue;
          }
          await delStep(work, step, runs);
          // Without a valid record it is unknown which of the two has run ADD.
          if (record !== 'damaged' || (await findTool(plugin.type, binDirs)) === undefined) continue;
        }
        await callPlugin({ command: 'DEL', plugin, network, attachment, netns, prevResult, binDirs, timeoutMs }, runs);
      } catch (error) {
        if (!(error instanceof Error)) throw error;
        if (!isGone(error, { alive, recorded: record !== undefined || cacheDir === '' })) errors.push(error);
      }
    }
    const [first, ...others] = errors;
    if (first) throw others.length === 0 ? first : together(first, others);
    if (deferred) {
      markDeleted(cacheDir, attachment, { result: intact?.result, inProcess: intact?.inProcess });
      return { deferred };
    }
    removeRecord(cacheDir, attachment);
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

function together(first: Error, others: Error[]): SluiceError {
  const code = first instanceof SluiceError ? first.code : 'CNI_FAILED';
  return new SluiceError(code, [first, ...others].map(({ message }) => message).join('; also: '), { cause: first });
}
