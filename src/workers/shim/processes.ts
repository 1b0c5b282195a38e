/** Finds the processes of a pod whose shim does not answer. For rare cases only: it reads all of /proc. */

import { readFileSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { killPinned } from '../../sys/pidfd.ts';
import { cwdOf } from './program.ts';

export interface Process {
  pid: number;
  argv: string[];
}

/** All processes with a command line. One call serves the search for many pods. */
export async function listProcesses(): Promise<Process[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  const found: Process[] = [];
  for (let at = 0; at < pids.length; at += 64) {
    const batch = pids.slice(at, at + 64).map(async (pid) => {
      const argv = parse(await readFile(`/proc/${pid}/cmdline`, 'latin1').catch(gone));
      if (argv.length > 0) found.push({ pid, argv });
    });
    await Promise.all(batch);
  }
  return found;
}

/** Was the process started as the shim of `id`? */
export function isShimOf(id: string, { argv }: Process): boolean {
  return flagValue(argv, '-id') === id && flagValue(argv, '-namespace') !== undefined;
}

/** The id of the pod whose shim the process is, when it was started by the daemon with this CRI socket. */
export function shimOf(socket: string, { argv }: Process): string | undefined {
  if (flagValue(argv, '-address') !== socket || flagValue(argv, '-namespace') === undefined) return undefined;
  return flagValue(argv, '-id');
}

/**
 * Does the process belong to this bundle, as the shim that was started in it or a runtime that was called for it? A
 * process with the same id and another folder does not.
 */
function belongsTo({ bundle, id }: { bundle: string; id: string }, process: Process): boolean {
  if (flagValue(process.argv, '--bundle') === bundle) return true;
  if (!isShimOf(id, process)) return false;
  const cwd = cwdOf(process.pid)?.replace(/ \(deleted\)$/, '');
  return cwd === bundle || cwd === hiddenName(bundle);
}

/** The name of a folder while it is being removed: the same with a leading dot. */
export function hiddenName(path: string): string {
  return join(dirname(path), `.${basename(path)}`);
}

/** A pod's or a container's bundle. */
export interface BundleOwner {
  bundle: string;
  id: string;
}

/** Kills the processes that {@link belongsTo} the bundle. Returns their pids. */
export function killLeftovers(owner: BundleOwner): Promise<number[]> {
  return killAllLeftovers([owner]);
}

/** {@link killLeftovers} for many bundles with one scan of /proc. */
export async function killAllLeftovers(owners: readonly BundleOwner[]): Promise<number[]> {
  const killed: number[] = [];
  for (const process of await listProcesses()) {
    const owner = owners.find((one) => belongsTo(one, process));
    if (!owner) continue;
    const { pid } = process;
    // Checked again once a pidfd refers to the process, since the pid may have been reused.
    const still = () => belongsTo(owner, { pid, argv: parse(readCmdline(pid)) });
    if (killPinned(pid, still)) killed.push(pid);
  }
  return killed;
}

function flagValue(argv: string[], flag: string): string | undefined {
  const at = argv.indexOf(flag);
  return at < 0 ? undefined : argv[at + 1];
}

function parse(cmdline: string): string[] {
  return cmdline.split('\0').slice(0, -1);
}

function readCmdline(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'latin1');
  } catch (error) {
    return gone(error);
  }
}

/** A process that has ended since it was listed has no command line. */
function gone(error: unknown): string {
  const { code } = error as NodeJS.ErrnoException;
  if (code === 'ENOENT' || code === 'ESRCH') return '';
  throw error;
}
