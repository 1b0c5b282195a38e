/**
 * libcni's record of an attachment, <cache_dir>/results/<network>-<container>-<interface>: kept where and how libcni keeps it, so
 * that its tools (cnitool, another runtime after a migration) can DEL what we ADDed. Unlike libcni's it is there before the
 * first plugin runs, without a result: a daemon that dies half-way leaves a trace.
 */
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Fd, openFd } from '../../sys/fd.ts';
import { C, check, libc } from '../../sys/libc.ts';
import { isObject, type Json } from '../json.ts';
import type { CniAttachment } from './types.ts';

const LOCK = { SHARED: 1, EXCLUSIVE: 2, NO_WAIT: 4 } as const;

export const RECORD_KIND = 'cniCacheV1';

export interface CniRecord {
  kind: typeof RECORD_KIND;
  containerId: string;
  /** The network's configuration, JSON in base64. */
  config: string;
  ifName: string;
  networkName: string;
  netns: string;
  cniArgs: [string, string][];
  capabilityArgs: Json;
  /** What the last plugin answered, in the configuration's version; absent until then. */
  result?: Json;
}

export function recordPath(cacheDir: string, { network, containerId, ifName }: CniAttachment): string {
  return join(cacheDir, 'results', `${network.name}-${containerId}-${ifName}`);
}

/** Writes the record whole or not at all. */
export async function writeRecord(cacheDir: string, attachment: CniAttachment, result?: Json): Promise<void> {
  if (cacheDir === '') return;
  const { source: _, ...network } = attachment.network;
  const record: CniRecord = {
    kind: RECORD_KIND,
    containerId: attachment.containerId,
    config: Buffer.from(JSON.stringify(network)).toString('base64'),
    ifName: attachment.ifName,
    networkName: attachment.network.name,
    netns: attachment.netns,
    cniArgs: attachment.args,
    capabilityArgs: attachment.capabilityArgs,
    result,
  };
  const path = recordPath(cacheDir, attachment);
  const text = JSON.stringify(record);
  try {
    await writeFile(draft(path), text, { mode: 0o600 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    await mkdir(join(cacheDir, 'results'), { recursive: true, mode: 0o700 });
    await writeFile(draft(path), text, { mode: 0o600 });
  }
  await rename(draft(path), path);
}

/**
 * Locks the record (flock) for as long as ADD works on it. Plugins inherit the lock: should the daemon be killed, those that it
 * started go on without it, and a DEL which overtakes them would leave behind what they are about to make.
 */
export function lockRecord(cacheDir: string, attachment: CniAttachment): Fd {
  const path = recordPath(cacheDir, attachment);
  const file = openFd(path, C.O_RDONLY);
  try {
    check('flock', libc.flock(file.number, LOCK.SHARED | LOCK.NO_WAIT), path);
    return file;
  } catch (error) {
    file[Symbol.dispose]();
    throw error;
  }
}

/** Waits until no plugin of an unfinished ADD is left, for `limitMs` at most: one that hangs must not keep the pod for ever. */
export async function awaitUnlocked(cacheDir: string, attachment: CniAttachment, limitMs: number): Promise<void> {
  const path = recordPath(cacheDir, attachment);
  const deadline = performance.now() + limitMs;
  using file = openFd(path, C.O_RDONLY);
  while (libc.flock(file.number, LOCK.EXCLUSIVE | LOCK.NO_WAIT) < 0 && performance.now() < deadline) await sleep(20);
}

/** The record; undefined when there is none, `"damaged"` when it can't be read as one. */
export async function readRecord(
  cacheDir: string,
  attachment: CniAttachment,
): Promise<CniRecord | 'damaged' | undefined> {
  if (cacheDir === '') return undefined;
  let text: string;
  try {
    text = await readFile(recordPath(cacheDir, attachment), 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  return parseRecord(text) ?? 'damaged';
}

/** The text of a record file; undefined when it is something else. */
export function parseRecord(text: string): CniRecord | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  const fits = isObject(value) && value.kind === RECORD_KIND && typeof value.config === 'string';
  return fits ? (value as unknown as CniRecord) : undefined;
}

export async function removeRecord(cacheDir: string, attachment: CniAttachment): Promise<void> {
  if (cacheDir === '') return;
  const path = recordPath(cacheDir, attachment);
  await rm(path, { force: true });
  await rm(draft(path), { force: true });
}

/** Beside the record under a name that libcni never asks for. */
const draft = (path: string): string => `${path}.new`;
