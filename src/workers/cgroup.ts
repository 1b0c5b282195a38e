import { readdirSync, readFileSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { libc } from '../sys/libc.ts';
import { SIGKILL } from '../sys/signals.ts';
import { type CgroupPaths, cgroupsOfSpec } from './stats/cgroups.ts';

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

/** Sends SIGKILL to the processes of a cgroup; one that has ended meanwhile is fine. */
function killAll(folder: string): void {
  for (const pid of readFileSync(join(folder, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean)) {
    // cgroup.procs shows 0 for a process of another pid namespace, and kill(0) would signal our own process group.
    if (Number(pid) > 1) libc.kill(Number(pid), SIGKILL);
  }
}

function foldersOf(paths: CgroupPaths): Set<string> {
  return new Set([...Object.values(paths.v1), paths.unified].filter((path): path is string => !!path));
}

/** Removes a cgroup, the ones below it first. Only rmdir works here: the files in a cgroup belong to the kernel. */
function removeCgroup(folder: string): void {
  let entries: { name: string; isDirectory(): boolean }[];
  try {
    entries = readdirSync(folder, { withFileTypes: true });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw error;
  }
  for (const entry of entries) if (entry.isDirectory()) removeCgroup(join(folder, entry.name));
  try {
    rmdirSync(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}
