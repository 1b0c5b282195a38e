/**
 * The folder in which host-local keeps its addresses: a file for each address that is taken, named after it, with
 * container and interface inside; last_reserved_ip.N for each range set; and a lock. The reference plugin and this work
 * on one folder side by side.
 */
import {
  closeSync,
  type Dirent,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Fd, openFd } from '../../../sys/fd.ts';
import { type Address, addressText, parseAddress } from '../../../sys/ip.ts';
import { C, errno, libc, SysError } from '../../../sys/libc.ts';
import { overwrite } from '../overwrite.ts';
import { type GcCall, type Owner, ownerText } from './call.ts';
import { during, Refusal } from './refusal.ts';

const LOCK_EX = 2;
const LOCK_NB = 4;
const EAGAIN = 11;
const EINTR = 4;
/**
 * Another holder keeps the lock for a fraction of a millisecond, a plugin process that is starved of CPU for longer.
 */
const PAUSE_MS = 2;

/** The folder while its lock is held. */
export class Store {
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
  }

  /** Takes the address unless somebody has it. An orphan (see {@link Store.release}) is taken over. */
  reserve(owner: Owner, address: Address, set: number): boolean {
    const path = join(this.#folder, addressText(address));
    let file: number;
    try {
      file = openSync(path, 'wx+', 0o644);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      if (read(path) !== '') return false;
      file = openSync(path, 'r+');
    }
    try {
      writeSync(file, contentOf(owner));
    } catch (error) {
      rmSync(path, { force: true });
      throw error;
    } finally {
      closeSync(file);
    }
    using last = openFd(this.#lastPath(set), C.O_WRONLY | C.O_CREAT, 0o644);
    overwrite(last.number, addressText(address));
    return true;
  }

  /** The address that was handed out last; undefined where there is none or the file says nothing sensible. */
  last(set: number): Address | undefined {
    try {
      return parseAddress(readFileSync(this.#lastPath(set), 'latin1'));
    } catch {
      return undefined; // as the plugin does: only the order of the walk is lost
    }
  }

  /** The addresses that the owner has. Reads every file of the folder. */
  addressesOf(owner: Owner): Address[] {
    return this.#filesOf([contentOf(owner), owner.containerId.trim()]).flatMap((name) => parseAddress(name) ?? []);
  }

  /**
   * Gives back all that the owner has. With `known` addresses only their files are looked at, and the others when one
   * of them was not there; without, every file of the folder is read, and orphans are removed: a file without an owner
   * is of a process that was killed between making it and writing into it. It cannot be one that is being made, since
   * every writer, the plugin too, holds the lock meanwhile.
   */
  release(owner: Owner, known: readonly Address[] = []): void {
    const own = [contentOf(owner), owner.containerId.trim()];
    const found = known.filter((address) => {
      const path = join(this.#folder, addressText(address));
      if (!own.includes(read(path) ?? '')) return false;
      unlinkSync(path);
      return true;
    });
    if (known.length > 0 && found.length === known.length) return;
    const files = this.#addressFiles().map((name) => ({ name, content: read(join(this.#folder, name)) }));
    const named = files.filter(({ content }) => content === own[0]);
    // Files that an early version of the plugin wrote name the container alone.
    const released = named.length > 0 ? named : files.filter(({ content }) => content === own[1]);
    const orphans = files.filter(({ content }) => content === '');
    for (const { name } of [...released, ...orphans]) rmSync(join(this.#folder, name), { force: true });
  }

  /** Gives back what belongs to nobody (the specification's GC), and returns what that was, in words. */
  releaseOthers({ isValid, minAgeMs, dryRun }: Pick<GcCall, 'isValid' | 'minAgeMs' | 'dryRun'>): string[] {
    return this.#addressFiles().flatMap((name) => {
      const path = join(this.#folder, name);
      const content = read(path);
      if (content === undefined || Date.now() - statSync(path).mtimeMs < minAgeMs) return [];
      const [containerId = '', ifName = ''] = content.split('\r\n');
      // A file without an owner is left by a power cut.
      if (containerId !== '' && isValid({ containerId, ifName })) return [];
      if (!dryRun) rmSync(path, { force: true });
      return [`address ${name} of ${containerId === '' ? 'nobody' : ownerText({ containerId, ifName })}`];
    });
  }

  #filesOf(contents: readonly string[]): string[] {
    return this.#addressFiles().filter((name) => contents.includes(read(join(this.#folder, name)) ?? ''));
  }

  #addressFiles(): string[] {
    const entries: Dirent[] = readdirSync(this.#folder, { withFileTypes: true });
    return entries.flatMap((entry) => (entry.isFile() && parseAddress(entry.name) ? [entry.name] : []));
  }

  #lastPath(set: number): string {
    return join(this.#folder, `last_reserved_ip.${set}`);
  }
}

/** Blanks around a container's id don't count; the line break is the plugin's, on all systems. */
const contentOf = ({ containerId, ifName }: Owner): string => `${containerId.trim()}\r\n${ifName}`;

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return undefined; // gone, or no file: nobody's, as for the plugin
  }
}

/**
 * Does `work` with the folder locked against other threads, other daemons and plugin processes. `work` is synchronous:
 * the lock is held for as long as it runs. Makes the folder where it is missing. Throws Refusal; after `limitMs` of
 * waiting too.
 */
export async function withStore<T>(folder: string, limitMs: number, work: (store: Store) => T): Promise<T> {
  using file = during('', () => openLock(folder));
  const deadline = performance.now() + limitMs;
  while (libc.flock(file.number, LOCK_EX | LOCK_NB) < 0) {
    const code = errno();
    if (code !== EAGAIN && code !== EINTR) throw new SysError('flock', code, folder);
    if (performance.now() > deadline) {
      throw new Refusal(
        `${join(folder, 'lock')} is held by another process for more than ${Math.round(limitMs / 1000)} s`,
      );
    }
    await sleep(PAUSE_MS);
  }
  return during('', () => work(new Store(folder))); // closing the file gives the lock back
}

/** Go names the part of the path that is not a folder, Node the whole path. */
function makeFolder(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true, mode: 0o755 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOTDIR') throw error;
    let file = folder;
    while (!existsSync(file) && dirname(file) !== file) file = dirname(file);
    throw new Refusal(`mkdir ${file}: not a directory`, { cause: error });
  }
}

function openLock(folder: string): Fd {
  const path = join(folder, 'lock');
  try {
    return openFd(path, C.O_RDONLY);
  } catch (error) {
    if (!(error instanceof SysError) || !['ENOENT', 'ENOTDIR'].includes(error.code)) throw error;
    makeFolder(folder);
    return openFd(path, C.O_RDONLY | C.O_CREAT, 0o750); // the plugin's mode
  }
}
