/**
 * libcni's record of an attachment, <cache_dir>/results/<network>-<container>-<interface>. Path and format are
 * libcni's, so that other programs (cnitool, another runtime after a migration) can DEL the attachment. Unlike libcni,
 * Sluice also writes it before the first plugin runs, without a result, so that a daemon that is killed during ADD
 * leaves a record to DEL.
 *
 * All of it is synchronous on the worker's thread: the folder is the user's and must not hold up libuv's shared
 * threads.
 */
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Fd, openFd } from '../../sys/fd.ts';
import { removeFileSync } from '../../sys/folder.ts';
import { C, check, libc, SysError } from '../../sys/libc.ts';
import { isObject, type Json } from '../json.ts';
import { overwrite } from './overwrite.ts';
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

type Outcome = Pick<CniRecord, 'result' | 'inProcess' | 'deleted'>;

/**
 * The record of an ADD under way, with a shared flock on it. Plugins inherit the descriptor and with it the lock: when
 * the daemon is killed, running plugins go on, and a DEL that did not wait for them would miss what they make
 * afterwards.
 */
export class OpenRecord implements Disposable {
  /** No ADD of this attachment has begun that was not deleted. */
  readonly isNew: boolean;
  readonly #file: Fd;
  readonly #attachment: CniAttachment;

  constructor(file: Fd, attachment: CniAttachment, isNew: boolean) {
    this.#file = file;
    this.#attachment = attachment;
    this.isNew = isNew;
  }

  /** The descriptor for plugins to inherit. */
  get lock(): number {
    return this.#file.number;
  }

  /**
   * Writes into the file itself: the text with a result begins like the one without and is longer, so that a daemon
   * that is killed leaves one or the other.
   */
  write(outcome: Outcome): void {
    overwrite(this.#file.number, textOf(this.#attachment, outcome));
  }

  [Symbol.dispose](): void {
    this.#file[Symbol.dispose]();
  }
}

/** Opens the record of an ADD, which is made where there is none. Throws SysError. */
export function openRecord(cacheDir: string, attachment: CniAttachment): OpenRecord {
  const path = recordPath(cacheDir, attachment);
  const { file, isNew } = openNew(path, cacheDir);
  try {
    check('flock', libc.flock(file.number, LOCK.SHARED | LOCK.NO_WAIT), path);
    return new OpenRecord(file, attachment, isNew);
  } catch (error) {
    file[Symbol.dispose]();
    throw error;
  }
}

function openNew(path: string, cacheDir: string): { file: Fd; isNew: boolean } {
  try {
    return { file: openFd(path, C.O_RDWR | C.O_CREAT | C.O_EXCL, 0o600), isNew: true };
  } catch (error) {
    const code = error instanceof SysError ? error.code : '';
    if (code === 'EEXIST') return { file: openFd(path, C.O_RDWR | C.O_CREAT, 0o600), isNew: false };
    if (code !== 'ENOENT') throw error;
  }
  mkdirSync(join(cacheDir, 'results'), { recursive: true, mode: 0o700 });
  return { file: openFd(path, C.O_RDWR | C.O_CREAT, 0o600), isNew: true };
}

/**
 * Says in the record that a DEL has left the rest to the end of the namespace. The attachment has no row any more then.
 * A power cut leaves this text or the one before, which is deleted again at the next start; where it leaves neither, GC
 * gives the address back.
 */
export function markDeleted(cacheDir: string, attachment: CniAttachment, outcome: Omit<Outcome, 'deleted'>): void {
  using file = openFd(recordPath(cacheDir, attachment), C.O_RDWR | C.O_CREAT, 0o600);
  overwrite(file.number, textOf(attachment, { ...outcome, deleted: true }));
}

function textOf(attachment: CniAttachment, outcome: Outcome): string {
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
    ...outcome,
  };
  return JSON.stringify(record);
}

/** Waits until no plugin of an unfinished ADD holds the lock, for `limitMs` at most, because a plugin may hang. */
export async function awaitUnlocked(cacheDir: string, attachment: CniAttachment, limitMs: number): Promise<void> {
  const path = recordPath(cacheDir, attachment);
  const deadline = performance.now() + limitMs;
  using file = openFd(path, C.O_RDONLY);
  while (libc.flock(file.number, LOCK.EXCLUSIVE | LOCK.NO_WAIT) < 0 && performance.now() < deadline) await sleep(20);
}

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
  // Earlier versions wrote what a DEL had to say into a second file.
  for (const name of [path, `${path}.new`]) removeFileSync(name);
}
