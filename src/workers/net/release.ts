/**
 * The end of a DEL that did not delete the pod's link itself. Deleting a veth takes the kernel 15 to 30 ms, during
 * which it waits for a grace period with the lock of all links (RTNL) held; a namespace that is dropped takes its links
 * along without a caller waiting, many namespaces in one go. So DEL leaves the link to the end of the namespace, and
 * the address, the masquerading and the record are given up here, once the link is gone: neither can meet the pod's
 * successor.
 */
import { deleteLink, findLink } from '../../sys/rtnetlink.ts';
import { planLater } from './in-process/plan.ts';
import { routeSocket } from './in-process/sockets.ts';
import { confOf, delStep } from './in-process/step.ts';
import { collectRuns } from './plugin-runs.ts';
import { readRecord, removeRecord } from './record.ts';
import { previousResult } from './result.ts';
import type { CniCall, PluginRun } from './types.ts';

/** What a DEL has left for later. */
export interface Deferred {
  /** Index of the pod's link in the host's namespace. */
  link: number;
  /** Indexes of the plugins whose DEL waits for it. */
  plugins: number[];
}

export interface Release {
  call: CniCall;
  deferred: Deferred;
  /** Delete the link now: the namespace was not dropped after all. */
  force: boolean;
}

/**
 * Releases what can be released. Returns the indexes of those whose link is still there. Throws CNI_FAILED at the first
 * failure; all of them may be tried again.
 */
export function cniRelease({ releases }: { releases: Release[] }): Promise<{ left: number[]; plugins: PluginRun[] }> {
  return collectRuns(async (runs) => {
    const host = routeSocket();
    const left: number[] = [];
    for (const [index, { call, deferred, force }] of releases.entries()) {
      if (force) deleteLink(host, deferred.link);
      if (findLink(host, deferred.link)) left.push(index);
      else await release(call, deferred, runs);
    }
    return { left };
  });
}

async function release(call: CniCall, { plugins }: Deferred, runs: PluginRun[]): Promise<void> {
  const { attachment, binDirs, cacheDir, timeoutMs } = call;
  const { network } = attachment;
  const record = readRecord(cacheDir, attachment);
  if (record === undefined) return; // another DEL of the same attachment has done it
  const intact = record === 'damaged' ? undefined : record;
  const last = previousResult(intact?.result, network.cniVersion);
  const works = await planLater(
    { network, binDirs, inProcess: true, confOf: (plugin) => confOf(plugin, network, attachment), asksMac: false },
    intact ? (intact.inProcess ?? []) : undefined,
  );
  for (const index of plugins) {
    const [work, plugin] = [works[index], network.plugins[index]];
    if (!work || !plugin) continue;
    await delStep(work, { plugin, network, attachment, netns: '', prevResult: last, binDirs, timeoutMs }, runs);
  }
  removeRecord(cacheDir, attachment);
}
