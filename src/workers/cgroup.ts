import { readdirSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { type CgroupPaths, cgroupsOfSpec } from './stats/cgroups.ts';

/**
 * Removes what is left of a container's cgroups: the runtime does that itself, unless it was killed between making them and writing
 * down that it had. Empty ones only: with a process in it the kernel refuses (EBUSY), and so this throws.
 */
export function removeCgroups({ cgroupsPath }: { cgroupsPath: string }): void {
  for (const folder of foldersOf(cgroupsOfSpec(cgroupsPath))) removeTree(folder);
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
