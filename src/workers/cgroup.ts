import { readdirSync, readFileSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { libc } from '../sys/libc.ts';
import { SIGKILL } from '../sys/signals.ts';
import { type CgroupPaths, cgroupsOfSpec } from './stats/cgroups.ts';

const TRIES = 40;
const PAUSE_MS = 50;

/**
 * Removes what is left of a container's cgroups, with the processes in them: the runtime does that itself, unless it was killed
 * between making them and writing down that it had. The caller knows that the container is over; the cgroups carry its id.
 * Throws what the kernel says when a process in one does not end within two seconds.
 */
export async function removeCgroups({ cgroupsPath }: { cgroupsPath: string }): Promise<void> {
  for (const folder of foldersOf(cgroupsOfSpec(cgroupsPath))) {
    for (let tries = 1; ; tries++) {
      try {
        removeTree(folder);
        break;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EBUSY' || tries === TRIES) throw error;
        killAll(folder);
        await sleep(PAUSE_MS);
      }
    }
  }
}

/** SIGKILL to the processes that are in a cgroup; one that has ended meanwhile is fine. */
function killAll(folder: string): void {
  for (const pid of readFileSync(join(folder, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean)) {
    // 0 stands for a process of another pid namespace, and to kill(2) for everybody in our own group.
    if (Number(pid) > 1) libc.kill(Number(pid), SIGKILL);
  }
}

function foldersOf(paths: CgroupPaths): Set<string> {
  return new Set([...Object.values(paths.v1), paths.unified].filter((path): path is string => !!path));
}

/** A cgroup goes after the cgroups in it; its files are the kernel's. */
function removeTree(folder: string): void {
  let entries: { name: string; isDirectory(): boolean }[];
  try {
    entries = readdirSync(folder, { withFileTypes: true });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw error;
  }
  for (const entry of entries) if (entry.isDirectory()) removeTree(join(folder, entry.name));
  try {
    rmdirSync(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}
