/**
 * libcni's record of an attachment, <cache_dir>/results/<network>-<container>-<interface>. Path and format are
 * libcni's, so that other programs (cnitool, another runtime after a migration) can DEL the attachment. Unlike libcni,
 * Sluice also writes it before the first plugin runs, without a result, so that a daemon that is killed during ADD
 * leaves a record to DEL.
 *
 * All of it is synchronous on the worker's thread: the folder is the user's and must not hold up libuv's shared
 * threads.
 */
import {
  existsSync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Fd, openFd } from '../../sys/fd.ts';
import { C, check, libc } from '../../sys/libc.ts';
import { isObject, type Json } from '../json.ts';
import type { CniAttachment } from './types.ts';

const LOCK = { SHARED: 1, EXCLUSIVE: 2, NO_WAIT: 4 } as const;

const RECORD_KIND = 'cniCacheV1';

export interface CniRecord {
  kind: typeof RECORD_KIND;
  containerId: string;
  /** The network's configuration: JSON, base64-encoded. */
  config: string;
  ifName: string;
  networkName: string;
  netns: string;
  cniArgs: [string, string][];
  capabilityArgs: Json;
  /** The result of the last plugin in the configuration's version; absent until ADD has succeeded. */
  result?: Json;
  /**
   * Types of the plugins that ADD has run without a process; their DEL runs without one too. libcni ignores this key.
   */
  inProcess?: string[];
  /** DEL was called and has left the release of the address to the end of the namespace (release.ts). */
  deleted?: true;
}

function recordPath(cacheDir: string, { network, containerId, ifName }: CniAttachment): string {
  return join(cacheDir, 'results', `${network.name}-${containerId}-${ifName}`);
}

/**
 * Writes the record. ADD writes it into the file itself, which saves a launch two creations of files and two renames on
 * the disk: the text with a result begins like the one without and is longer, so that a daemon that is killed leaves
 * one or the other. DEL replaces the file by a rename: what waits for the end of its namespace has no row any more, and
 * must outlive a power cut.
 */
export function writeRecord(
  cacheDir: string,
  attachment: CniAttachment,
  more: Pick<CniRecord, 'result' | 'inProcess' | 'deleted'> = {},
): void {
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
    ...more,
  };
  const path = recordPath(cacheDir, attachment);
  const target = more.deleted ? draft(path) : path;
  const text = JSON.stringify(record);
  try {
    overwrite(target, text);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    mkdirSync(join(cacheDir, 'results'), { recursive: true, mode: 0o700 });
    overwrite(target, text);
  }
  if (target !== path) renameSync(target, path);
}

/** Without emptying the file first: there is no moment at which it has no text. */
function overwrite(path: string, text: string): void {
  using file = openFd(path, C.O_WRONLY | C.O_CREAT, 0o600);
  const bytes = Buffer.from(text);
  writeFileSync(file.number, bytes);
  if (fstatSync(file.number).size > bytes.length) ftruncateSync(file.number, bytes.length);
}

/**
 * Locks the record with a shared flock, which the caller holds during ADD. Plugins inherit the descriptor and with it
 * the lock: when the daemon is killed, running plugins go on, and a DEL that did not wait for them would miss what they
 * make afterwards.
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

/** Waits until no plugin of an unfinished ADD holds the lock, for `limitMs` at most, because a plugin may hang. */
export async function awaitUnlocked(cacheDir: string, attachment: CniAttachment, limitMs: number): Promise<void> {
  const path = recordPath(cacheDir, attachment);
  const deadline = performance.now() + limitMs;
  using file = openFd(path, C.O_RDONLY);
  while (libc.flock(file.number, LOCK.EXCLUSIVE | LOCK.NO_WAIT) < 0 && performance.now() < deadline) await sleep(20);
}

/** Whether an ADD of this attachment has begun and not been deleted. */
export const hasRecord = (cacheDir: string, attachment: CniAttachment): boolean =>
  existsSync(recordPath(cacheDir, attachment));

/** Reads the record; undefined when there is none, `"damaged"` when its text is not a valid record. */
export function readRecord(cacheDir: string, attachment: CniAttachment): CniRecord | 'damaged' | undefined {
  if (cacheDir === '') return undefined;
  let text: string;
  try {
    text = readFileSync(recordPath(cacheDir, attachment), 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  return parseRecord(text) ?? 'damaged';
}

/** Parses a record file; undefined when the text is not a record. */
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

export function removeRecord(cacheDir: string, attachment: CniAttachment): void {
  if (cacheDir === '') return;
  const path = recordPath(cacheDir, attachment);
  rmSync(path, { force: true });
  rmSync(draft(path), { force: true });
}

/** Temporary name beside the record; libcni never reads it. */
const draft = (path: string): string => `${path}.new`;
