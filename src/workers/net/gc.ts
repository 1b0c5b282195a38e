import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { atLeast } from './cni-version.ts';
import type { Owner } from './in-process/call.ts';
import { planLater } from './in-process/plan.ts';
import { confOf, gcStep } from './in-process/step.ts';
import { callPlugin, PluginFailure } from './plugin.ts';
import { collectRuns } from './plugin-runs.ts';
import { type CniRecord, parseRecord } from './record.ts';
import type { NetworkConf, PluginRun } from './types.ts';

export interface GcInput {
  network: NetworkConf;
  binDirs: string[];
  /**
   * libcni's cache folder: every attachment that has a record in it, or in a folder in it that another runtime has as
   * its own (cri-dockerd's `cache`, Multus' `multus`), is valid.
   */
  cacheDir: string;
  /** Further valid attachments. */
  valid: Owner[];
  /** Milliseconds that one plugin may take. */
  timeoutMs: number;
  inProcess?: 'auto' | boolean;
  /**
   * Whether plugins that are processes are called as well. They get a list, in which an ADD that begins meanwhile is
   * missing: there must be none.
   */
  programs: boolean;
  /** Only says what plugins in this thread would give back; processes are not called. */
  dryRun?: boolean;
  /** Addresses that were taken less than so many milliseconds ago stay. Left out: a quarter of an hour. */
  minAgeMs?: number;
}

/** Longer than any ADD takes: runtimes other than Sluice write their record after it. */
const MIN_AGE_MS = 15 * 60_000;

/**
 * CNI GC: has every plugin of the list release what belongs to none of the valid attachments (specification 1.1,
 * section 2), and returns what that was, in words, as far as plugins in this thread did it. They do so whatever the
 * version of the configuration; processes are called since 1.1.0, and one that does not know the verb has nothing to
 * release. All plugins run; then the first failure is thrown (CNI_FAILED or TIMED_OUT).
 */
export function cniGc(input: GcInput): Promise<{ released: string[]; plugins: PluginRun[] }> {
  return collectRuns(async (runs) => {
    const { network, binDirs, timeoutMs, inProcess = false, dryRun = false, minAgeMs = MIN_AGE_MS } = input;
    const works = await planLater(
      { network, binDirs, inProcess, confOf: (plugin) => confOf(plugin, network), asksMac: false },
      undefined,
    );
    const isValid = validity(input);
    const released: string[] = [];
    const errors: unknown[] = [];
    for (const [index, plugin] of network.plugins.entries()) {
      const work = works[index];
      try {
        if (work) {
          const call = { network, conf: confOf(plugin, network), isValid, minAgeMs, dryRun, limitMs: timeoutMs };
          released.push(...(await gcStep(work, { plugin, network }, call, runs)));
        } else if (input.programs && !dryRun && atLeast(network.cniVersion, '1.1.0')) {
          const more = validAttachments(input);
          await callPlugin({ command: 'GC', plugin, network, more, binDirs, timeoutMs }, runs);
        }
      } catch (error) {
        if (!(error instanceof PluginFailure && error.unknownVerb)) errors.push(error);
      }
    }
    if (errors.length > 0) throw errors[0];
    return { released: [...new Set(released)] }; // two plugins may look after one table
  });
}

/** The attachments, as programs want them. */
function validAttachments({ network, cacheDir, valid }: GcInput) {
  const recorded = recordFolders(cacheDir).flatMap((folder) => records(folder, `${network.name}-`));
  const all = [...valid, ...recorded.filter((one) => one.networkName === network.name)];
  const attachments = all.map(({ containerId, ifName }) => ({ containerID: containerId, ifname: ifName }));
  // Both names are in use: the first is the specification's, the second that of libcni's first release.
  return { 'cni.dev/valid-attachments': attachments, 'cni.dev/attachments': attachments };
}

/**
 * Asks whether an owner has an attachment: among those given, or a record that is there at that moment. Throws when the
 * folder of records can't be read: then nothing is known to be unused.
 */
function validity({ network, cacheDir, valid }: GcInput): (owner: Owner) => boolean {
  const given = new Set(valid.flatMap(({ containerId, ifName }) => [`${containerId}/${ifName}`, `${containerId}/`]));
  const folders = recordFolders(cacheDir);
  return ({ containerId, ifName }) => {
    if (given.has(`${containerId}/${ifName}`)) return true;
    const name = `${network.name}-${containerId}-${ifName}`;
    return folders.some((folder) => {
      const found = ifName === '' ? records(folder, name) : [readRecord(join(folder, name))];
      return found.some((one) => one?.networkName === network.name && one.containerId === containerId);
    });
  };
}

function recordFolders(cacheDir: string): string[] {
  return [cacheDir, ...list(cacheDir).map((name) => join(cacheDir, name))].map((folder) => join(folder, 'results'));
}

/** The records whose file's name begins like this. A damaged one names nobody. */
function records(folder: string, prefix: string): CniRecord[] {
  return list(folder).flatMap((name) => (name.startsWith(prefix) ? (readRecord(join(folder, name)) ?? []) : []));
}

const readRecord = (path: string): CniRecord | undefined => parseRecord(read(path));

function list(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch (error) {
    if (isAbsent(error)) return [];
    throw error;
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (isAbsent(error)) return ''; // a DEL was faster
    throw error;
  }
}

/** Also for a path below a file. */
const isAbsent = (error: unknown): boolean =>
  ['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '');
