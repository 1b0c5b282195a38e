import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type CniRecord, parseRecord } from '../../workers/net/record.ts';
import type { CniAttachment, NetworkConf } from '../../workers/net/types.ts';
import { isOwnNetns } from './daemon-id.ts';

/** What a daemon left behind that no record of its store names any more. */
export interface Strays {
  /** Attachments to DEL, read back from libcni's records. They come first: DEL wants the namespace. */
  attachments: CniAttachment[];
  /** Pinned namespaces to remove. */
  netns: string[];
}

export interface StrayOptions {
  netnsDir: string;
  cacheDir: string;
  /** Of {@link daemonId}; what does not carry it belongs to somebody else and is never listed. */
  daemon: string;
  /** Asked after the folders were read, so that a launch which began meanwhile is not taken for a stray. */
  knowsSandbox: (id: string) => boolean;
  knowsNetns: (path: string) => boolean;
}

/** Lists what belongs to this daemon and to none of its pods. Folders that are not there hold nothing. */
export async function findStrays(options: StrayOptions): Promise<Strays> {
  const { netnsDir, cacheDir, daemon, knowsSandbox, knowsNetns } = options;
  const results = join(cacheDir, 'results');
  const [pinned, records] = await Promise.all([list(netnsDir), readRecords(results)]);
  const netns = pinned
    .map((name) => join(netnsDir, name))
    .filter((path) => isOwnNetns(path, daemon) && !knowsNetns(path));
  const attachments = records.flatMap((record) => {
    const ours = typeof record.netns === 'string' && isOwnNetns(record.netns, daemon);
    if (!ours || knowsSandbox(record.containerId)) return [];
    const attachment = attachmentOf(record, results);
    return attachment ? [attachment] : [];
  });
  return { attachments, netns };
}

async function readRecords(folder: string): Promise<CniRecord[]> {
  const records: CniRecord[] = [];
  // One after the other: there may be a thousand, and nobody waits for this.
  for (const name of await list(folder)) {
    try {
      const record = parseRecord(await readFile(join(folder, name), 'utf8'));
      if (record) records.push(record);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error; // a DEL was faster
    }
  }
  return records;
}

function attachmentOf(record: CniRecord, folder: string): CniAttachment | undefined {
  let network: NetworkConf;
  try {
    network = JSON.parse(Buffer.from(record.config, 'base64').toString()) as NetworkConf;
  } catch {
    return undefined; // not written by us, for all its looks
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

async function list(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}
