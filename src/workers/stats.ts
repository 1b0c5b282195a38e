/** Stats on demand: cgroup files, /proc and du. Every function is a read; nothing is polled and nothing is kept. */
import { explain } from '../errors.ts';
import { type Handlers, serve } from './serve.ts';
import {
  anyFolder,
  type CgroupPaths,
  cgroupsOfParent,
  cgroupsOfProcess,
  cgroupsOfSpec,
  isEmpty,
} from './stats/cgroups.ts';
import { type DiskReading, type FilesystemReading, readDisk, readFilesystem } from './stats/disk.ts';
import { oomInKernelLog, type Victim } from './stats/kernel-log.ts';
import { type InterfaceReading, readNetwork } from './stats/network.ts';
import { type ProcessesReading, pidsIn, readProcesses } from './stats/processes.ts';
import { readCgroup, readOomKills } from './stats/read.ts';
import type { CgroupReading } from './stats/reading.ts';
import { yielder } from './yield.ts';

/** A cgroup, by what a row knows of it. */
export interface CgroupTarget {
  /** linux.cgroupsPath of the OCI spec; "" when it is unknown. */
  cgroupsPath?: string;
  /** The CRI's cgroup_parent, for a pod's own cgroup. */
  cgroupParent?: string;
  /** First process, the fall-back; 0 when there is none. */
  pid: number;
}

export interface ReadTarget extends CgroupTarget {
  /** "usage": the cgroup alone; "full": also its processes and what they hold open, for the metrics API. */
  detail: 'usage' | 'full';
  /** With "usage": count the processes. */
  countProcesses?: boolean;
  /** Path of the pod's pinned network namespace; left out where there is none to read. */
  netns?: string;
  /** Folder whose file system is wanted. */
  folder?: string;
}

export interface Sample {
  cgroup?: CgroupReading;
  processes?: ProcessesReading;
  /** Answers `countProcesses`. */
  processCount?: bigint;
  network?: InterfaceReading[];
  filesystem?: FilesystemReading;
  /** Why the rest is missing, when a read failed in a way that is not just "gone". */
  problem?: string;
}

export const statsHandlers = {
  /** One sample for each target, in order; one whose cgroup is gone is empty. */
  readStats: async ({ targets }: { targets: ReadTarget[] }): Promise<Sample[]> => {
    const yieldThread = yielder();
    const samples: Sample[] = [];
    for (const target of targets) {
      // One target's trouble must not cost the others their stats.
      samples.push(await sample(target).catch((error) => ({ problem: explain(error) })));
      await yieldThread();
    }
    return samples;
  },

  /** The size of a folder; undefined when it is gone. */
  diskUsage: ({ folder }: { folder: string }): Promise<DiskReading | undefined> => readDisk(folder),

  /** Processes that the OOM killer has ended in the cgroup; undefined when it is gone. */
  oomKills: (target: CgroupTarget): bigint | undefined => {
    const paths = pathsOf(target);
    return paths && readOomKills(paths);
  },

  /** The same for a cgroup that is gone, from the kernel's log; undefined when that may not be read. */
  oomKillLogged: (victim: Victim): boolean | undefined => oomInKernelLog(victim),
} satisfies Handlers;

/**
 * The spec's path is surer than the process: a container's init may have moved itself to a cgroup below (systemd does), and the
 * pid may be another's by now. So a process found by its pid must be in a cgroup of the right name.
 */
function pathsOf({ cgroupsPath, cgroupParent, pid }: CgroupTarget): CgroupPaths | undefined {
  if (cgroupParent) return cgroupsOfParent(cgroupParent);
  if (!cgroupsPath) return cgroupsOfProcess(pid);
  const named = cgroupsOfSpec(cgroupsPath);
  if (!isEmpty(named)) return named;
  const found = cgroupsOfProcess(pid);
  const name = cgroupsPath.split(/[:/]/).at(-1) ?? '';
  return found && name !== '' && anyFolder(found)?.includes(name) ? found : undefined;
}

async function sample(target: ReadTarget): Promise<Sample> {
  const paths = pathsOf(target);
  const full = target.detail === 'full';
  const cgroup = paths && readCgroup(paths, full);
  const folder = cgroup && paths && anyFolder(paths);
  return {
    cgroup,
    processes: full && folder !== undefined ? await readProcesses(folder, target.pid) : undefined,
    processCount: target.countProcesses && folder !== undefined ? BigInt(pidsIn(folder).length) : undefined,
    network: target.netns ? readNetwork(target.pid, target.netns) : undefined,
    filesystem: target.folder ? readFilesystem(target.folder) : undefined,
  };
}

export default serve(statsHandlers);
