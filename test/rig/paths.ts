/** Where things are: the checkout, the cache that outlives a run, and private folders that do not. */
import { accessSync, chmodSync, constants, existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join, resolve } from 'node:path';
import { mountsBelow } from './leftovers.ts';
import { run } from './proc.ts';
import { tidyAtSignal } from './tidy.ts';

export const ROOT = resolve(import.meta.dirname, '../..');
/** Kept between runs, ignored by git: built programs and the filled registry. */
export const CACHE = join(ROOT, '.cache');
export const BIN = join(CACHE, 'bin');

export function cacheFolder(name: string): string {
  const folder = join(CACHE, name);
  mkdirSync(folder, { recursive: true });
  return folder;
}

/**
 * A new private folder. The name is short because unix sockets below it may have paths of 107 bytes at most. Others may
 * pass through it: the root of a pod with a user namespace is one of them.
 */
export function privateFolder(kind: string): string {
  const folder = mkdtempSync(join(tmpdir(), `${kind}-`));
  chmodSync(folder, 0o711);
  // What is mounted below it belongs to somebody who has not tidied up: better a folder left than his files gone.
  tidyAtSignal(async () => {
    if (mountsBelow(folder).length === 0) rmSync(folder, { recursive: true, force: true });
  });
  return folder;
}

/**
 * The folder for a daemon's run-time state below its private one. `inMemory`: on a tmpfs, as /run is on most nodes;
 * sweep() takes it away, and leftovers do not count it.
 */
export async function stateFolder(folder: string, inMemory = false): Promise<string> {
  const state = join(folder, inMemory ? 'tmpfs' : 'state');
  if (inMemory) {
    mkdirSync(state);
    await run('mount', ['-t', 'tmpfs', '-o', 'mode=711', 'sluice-state', state]);
  }
  return state;
}

/** A program's absolute path, from PATH and the folders where Debian keeps those for root. */
export function findProgram(name: string): string | undefined {
  if (name.includes('/')) return existsSync(name) ? name : undefined;
  for (const folder of [...(process.env.PATH ?? '').split(delimiter), '/usr/local/sbin', '/usr/sbin', '/sbin']) {
    const path = join(folder || '.', name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // not here
    }
  }
  return undefined;
}

export function program(name: string): string {
  const path = findProgram(name);
  if (!path) throw new Error(`${name} is missing: run "npm run setup -- --system --test" as root`);
  return path;
}

/** Folders with CNI plugins that exist here. */
export function cniBinDirs(): string[] {
  return ['/opt/cni/bin', '/usr/lib/cni'].filter((dir) => existsSync(join(dir, 'bridge')));
}

/** systemd runs this machine: pods go into slices and scopes, and their cgroup parent is a slice's name. */
export const SYSTEMD = existsSync('/run/systemd/system');

/** A cgroup parent as CRI wants it, which no other rig uses. (A dash in a slice's name would mean another level.) */
export function cgroupParent(kind: string, index: number): { name: string; parent: string } {
  const name = `sluice${kind}${process.pid}x${index}`;
  return SYSTEMD ? { name: `${name}.slice`, parent: `${name}.slice` } : { name, parent: `/${name}` };
}
