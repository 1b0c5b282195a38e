import { readdirSync, readFileSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { libc } from '../sys/libc.ts';
import { signalPinned } from '../sys/pidfd.ts';
import { SIGKILL } from '../sys/signals.ts';
import { type CgroupPaths, cgroupsOfSpec } from './stats/cgroups.ts';

/** A signal for a container: its `cgroupsPath` as in the OCI spec, the pid of its first process. */
export interface ContainerSignal {
  cgroupsPath: string;
  pid: number;
  signal: number;
}

const TRIES = 40;
const PAUSE_MS = 50;

/**
 * Removes a container's cgroups and kills the processes in them. The runtime does this itself, unless it was killed
 * after it made the cgroups and before it recorded them. The caller has made sure that the container is over; the
 * cgroups contain its id in their names. Throws EBUSY when a process in one of them has not ended after two seconds.
 */
export async function removeCgroups({ cgroupsPath }: { cgroupsPath: string }): Promise<void> {
  for (const folder of foldersOf(cgroupsOfSpec(cgroupsPath))) await removeCgroupFolder(folder);
}

/** As {@link removeCgroups}, for one folder below /sys/fs/cgroup. An absent one is fine. */
export async function removeCgroupFolder(folder: string): Promise<void> {
  for (let tries = 1; ; tries++) {
    try {
      removeCgroup(folder);
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EBUSY' || tries === TRIES) throw error;
      killAll(folder);
      await sleep(PAUSE_MS);
    }
  }
}

/**
 * Signals a container's processes without its runtime: SIGKILL goes to all in its cgroups, again for two seconds while
 * there are any (they may be forking), another signal to `pid` alone, its first process. Gives whether there was one.
 * For a runtime that cannot be run; the caller has asked it.
 */
export async function signalContainer({ cgroupsPath, pid, signal }: ContainerSignal): Promise<boolean> {
  const folders = [...foldersOf(cgroupsOfSpec(cgroupsPath))];
  const first = pid > 1 && signalPinned(pid, signal, () => folders.some((folder) => processesIn(folder).includes(pid)));
  if (signal !== SIGKILL) return first;
  for (let tries = 0; tries < TRIES; tries++) {
    if (!folders.map(killAll).includes(true)) return first || tries > 0;
    await sleep(PAUSE_MS);
  }
  return true;
}

/** Sends SIGKILL to the processes of a cgroup and of those below it; gives whether there were any. */
function killAll(folder: string): boolean {
  const below = subfoldersOf(folder).map((name) => killAll(join(folder, name)));
  // A process of another pid namespace is shown as 0, and kill(0) would signal our own process group.
  const pids = processesIn(folder).filter((pid) => pid > 1);
  for (const pid of pids) libc.kill(pid, SIGKILL); // one that has ended meanwhile is fine
  return pids.length > 0 || below.includes(true);
}

/** Pids in a cgroup; none where it is gone. */
function processesIn(folder: string): number[] {
  const text = unlessGone(() => readFileSync(join(folder, 'cgroup.procs'), 'utf8')) ?? '';
  return text.split('\n').filter(Boolean).map(Number);
}

/** Names of the cgroups directly below one; none where it is gone. */
function subfoldersOf(folder: string): string[] {
  const entries = unlessGone(() => readdirSync(folder, { withFileTypes: true })) ?? [];
  return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
}

/**
 * A cgroup is gone from one moment to the next: ENOENT where its folder is not there any more, ENODEV in a file of it.
 */
function unlessGone<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENODEV') return undefined;
    throw error;
  }
}

function foldersOf(paths: CgroupPaths): Set<string> {
  return new Set([...Object.values(paths.v1), paths.unified].filter((path): path is string => !!path));
}

/** Removes a cgroup, the ones below it first. Only rmdir works here: the files in a cgroup belong to the kernel. */
function removeCgroup(folder: string): void {
  for (const name of subfoldersOf(folder)) removeCgroup(join(folder, name));
  unlessGone(() => rmdirSync(folder));
}
