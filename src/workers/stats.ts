/** Handlers that read stats on demand: cgroup files, /proc and the size of folders. Nothing is polled or cached. */
import { explain } from '../errors.ts';
import type { Handlers } from './serve.ts';
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

/** How to find the cgroup of a container or pod. */
export interface CgroupTarget {
  /** linux.cgroupsPath of the OCI spec; "" or left out when unknown. */
  cgroupsPath?: string;
  /** The CRI's cgroup_parent, for a pod's own cgroup. */
  cgroupParent?: string;
  /** Pid of the first process, used when the paths lead nowhere; 0 when there is none. */
  pid: number;
}

export interface ReadTarget extends CgroupTarget {
  /** "usage": the cgroup alone. "full" (for ListPodSandboxMetrics): also its processes and their open descriptors. */
  detail: 'usage' | 'full';
  /** Fills `processCount`, for "usage". */
  countProcesses?: boolean;
  /** Path of the pod's pinned network namespace; left out where its interfaces are not to be read. */
  netns?: string;
  /** Folder whose file system is to be described. */
  folder?: string;
}

export interface Sample {
  cgroup?: CgroupReading;
  processes?: ProcessesReading;
  /** Set for `countProcesses`. */
  processCount?: bigint;
  network?: InterfaceReading[];
  filesystem?: FilesystemReading;
  /** The error that made the rest of the sample missing; a cgroup that is gone is not an error. */
  problem?: string;
}

export const statsHandlers = {
  /** One sample per target, in their order; empty for a target whose cgroup is gone. */
  readStats: async ({ targets }: { targets: ReadTarget[] }): Promise<Sample[]> => {
    const yieldThread = yielder();
    const samples: Sample[] = [];
    for (const target of targets) {
      // A target that fails must not make the others lose their stats.
      samples.push(await sample(target).catch((error) => ({ problem: explain(error) })));
      await yieldThread();
    }
    return samples;
  },

  /** The disk use of a folder; undefined when it is gone. */
  diskUsage: ({ folder }: { folder: string }): Promise<DiskReading | undefined> => readDisk(folder),

  /** How many processes of the cgroup the OOM killer has killed; undefined when the cgroup is gone. */
  oomKills: (target: CgroupTarget): bigint | undefined => {
    const paths = pathsOf(target);
    return paths && readOomKills(paths);
  },

  /** Whether the kernel's log reports an OOM kill in a cgroup that is gone; undefined when the log cannot be read. */
  oomKillLogged: (victim: Victim): boolean | undefined => oomInKernelLog(victim),
} satisfies Handlers;

/**
 * The spec's path is more reliable than the pid: a container's init may have moved itself to a cgroup below (systemd
 * does), and the pid may belong to another process by now. So a cgroup found by the pid must have the container's name.
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
