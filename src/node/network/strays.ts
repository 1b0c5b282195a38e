import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { namesIn } from '../../sys/folder.ts';
import { type CniRecord, parseRecord } from '../../workers/net/record.ts';
import type { CniAttachment, NetworkConf } from '../../workers/net/types.ts';
import { isOwnNetns } from './daemon-id.ts';

/** Resources of this daemon that no row of its store refers to. */
export interface Strays {
  /** Attachments to DEL, read from libcni's cache. The caller deletes these first, because DEL uses the namespace. */
  attachments: CniAttachment[];
  /**
   * Attachments whose DEL an earlier daemon called, without the release of the address that follows the end of the
   * namespace. They are to be deleted again, and are not leaks. Rows of their sandboxes may exist.
   */
  unreleased: CniAttachment[];
  /** Paths of pinned namespaces to remove. */
  netns: string[];
}

export interface StrayOptions {
  netnsDir: string;
  cacheDir: string;
  /** From {@link daemonId}. A resource without this id belongs to another program and is never listed. */
  daemon: string;
  /** Both are called after the folders are read, so that a launch which begins meanwhile is not listed as a stray. */
  hasSandbox: (id: string) => boolean;
  hasNetns: (path: string) => boolean;
}

/** Lists the resources that belong to this daemon and to none of its pods. An absent folder counts as empty. */
export async function findStrays(options: StrayOptions): Promise<Strays> {
  const { netnsDir, cacheDir, daemon, hasSandbox, hasNetns } = options;
  const results = join(cacheDir, 'results');
  const [pinned, records] = await Promise.all([namesIn(netnsDir), readRecords(results)]);
  const netns = pinned
    .map((name) => join(netnsDir, name))
    .filter((path) => isOwnNetns(path, daemon) && !hasNetns(path));
  const ours = records.filter((record) => typeof record.netns === 'string' && isOwnNetns(record.netns, daemon));
  const attachmentsOf = (some: CniRecord[]) => some.flatMap((record) => attachmentOf(record, results) ?? []);
  return {
    attachments: attachmentsOf(ours.filter(({ deleted, containerId }) => !deleted && !hasSandbox(containerId))),
    unreleased: attachmentsOf(ours.filter(({ deleted }) => deleted)),
    netns,
  };
}

async function readRecords(folder: string): Promise<CniRecord[]> {
  const records: CniRecord[] = [];
  // Sequential, because there may be a thousand files and no caller is waiting.
  for (const name of await namesIn(folder)) {
    try {
      const record = parseRecord(await readFile(join(folder, name), 'utf8'));
      if (record) records.push(record);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error; // deleted since the folder was read
    }
  }
  return records;
}

function attachmentOf(record: CniRecord, folder: string): CniAttachment | undefined {
  let network: NetworkConf;
  try {
    network = JSON.parse(Buffer.from(record.config, 'base64').toString()) as NetworkConf;
  } catch {
    return undefined; // not written by Sluice or libcni
  }
  return {
    network: { ...network, source: folder },
    containerId: record.containerId,
    netns: record.netns,
    ifName: record.ifName,
    args: record.cniArgs ?? [],
    capabilityArgs: record.capabilityArgs ?? {},
  };
}
