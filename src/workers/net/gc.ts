import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { atLeast } from './cni-version.ts';
import { planLater } from './in-process/plan.ts';
import { confOf, gcStep } from './in-process/step.ts';
import { callPlugin, PluginFailure } from './plugin.ts';
import { collectRuns } from './plugin-runs.ts';
import { parseRecord } from './record.ts';
import type { NetworkConf, PluginRun } from './types.ts';

export interface GcInput {
  network: NetworkConf;
  binDirs: string[];
  /** libcni's cache folder: every attachment that has a record in it is valid, whosever it is. */
  cacheDir: string;
  /** Further valid attachments. */
  valid: { containerId: string; ifName: string }[];
  /** Milliseconds that one plugin may take. */
  timeoutMs: number;
  inProcess?: 'auto' | boolean;
}

/**
 * CNI GC: has every plugin of the list release what belongs to none of the valid attachments (specification 1.1,
 * section 2). Plugins in this thread do so whatever the version of the configuration; processes are called since 1.1.0,
 * and one that does not know the verb has nothing to release. All plugins run; then the first failure is thrown
 * (CNI_FAILED or TIMED_OUT).
 */
export function cniGc(input: GcInput): Promise<{ plugins: PluginRun[] }> {
  return collectRuns(async (runs) => {
    const { network, binDirs, timeoutMs, inProcess = false } = input;
    const valid = [...input.valid, ...recorded(input.cacheDir, network.name)];
    const works = await planLater(
      { network, binDirs, inProcess, confOf: (plugin) => confOf(plugin, network), asksMac: false },
      undefined,
    );
    const attachments = valid.map(({ containerId, ifName }) => ({ containerID: containerId, ifname: ifName }));
    // Both names are in use: the first is the specification's, the second that of libcni's first release.
    const more = { 'cni.dev/valid-attachments': attachments, 'cni.dev/attachments': attachments };
    const errors: unknown[] = [];
    for (const [index, plugin] of network.plugins.entries()) {
      const work = works[index];
      try {
        if (work) {
          const call = { network, conf: confOf(plugin, network), valid, limitMs: timeoutMs };
          await gcStep(work, { plugin, network }, call, runs);
        } else if (atLeast(network.cniVersion, '1.1.0')) {
          await callPlugin({ command: 'GC', plugin, network, more, binDirs, timeoutMs }, runs);
        }
      } catch (error) {
        if (!(error instanceof PluginFailure && error.unknownVerb)) errors.push(error);
      }
    }
    if (errors.length > 0) throw errors[0];
    return {};
  });
}

/**
 * The attachments of a network that have a record. Throws when the folder can't be read: then nothing is known to be
 * unused.
 */
function recorded(cacheDir: string, network: string): GcInput['valid'] {
  const folder = join(cacheDir, 'results');
  return list(folder).flatMap((name) => {
    if (!name.startsWith(`${network}-`)) return [];
    const record = parseRecord(read(join(folder, name)));
    return record?.networkName === network ? [{ containerId: record.containerId, ifName: record.ifName }] : [];
  });
}

function list(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return ''; // a DEL was faster
    throw error;
  }
}
