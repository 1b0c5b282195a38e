/** The processes of a cgroup and their open descriptors. */
import { readdirSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { yielder } from '../yield.ts';
import { isGone, readText } from './files.ts';

export interface ProcessesReading {
  processes: bigint;
  threads: bigint;
  descriptors: bigint;
  sockets: bigint;
  /** Soft limit of open files of the first process; undefined when it is unlimited or the process has ended. */
  maxOpenFiles?: bigint;
}

/** The pids in a cgroup and in the cgroups below it (a container may run systemd, or containers of its own). */
export function pidsIn(folder: string): number[] {
  const pids: number[] = [];
  const folders = [folder];
  for (let current = folders.pop(); current !== undefined; current = folders.pop()) {
    for (const pid of (readText(join(current, 'cgroup.procs')) ?? '').split('\n'))
      if (pid !== '') pids.push(Number(pid));
    try {
      for (const entry of readdirSync(current, { withFileTypes: true })) {
        if (entry.isDirectory()) folders.push(join(current, entry.name));
      }
    } catch (error) {
      if (!isGone(error)) throw error;
    }
  }
  return pids;
}

/**
 * Counts processes, threads, descriptors and sockets. Of a process that ends meanwhile only what was read so far
 * counts; of one that the daemon may not inspect (no CAP_SYS_PTRACE over its user namespace) only the process counts.
 */
export async function readProcesses(folder: string, init: number): Promise<ProcessesReading> {
  const yieldThread = yielder();
  const pids = pidsIn(folder);
  let descriptors = 0;
  let sockets = 0;
  let threads = 0;
  for (const pid of pids) {
    const links = `/proc/${pid}/fd`;
    let names: string[];
    try {
      threads += readdirSync(`/proc/${pid}/task`).length;
      names = readdirSync(links);
    } catch (error) {
      if (isGone(error) || isForbidden(error)) continue;
      throw error;
    }
    descriptors += names.length;
    for (const name of names) {
      if (isSocket(`${links}/${name}`)) sockets++;
      await yieldThread();
    }
  }
  return {
    processes: BigInt(pids.length),
    threads: BigInt(threads),
    descriptors: BigInt(descriptors),
    sockets: BigInt(sockets),
    // The recorded pid may have been reused; it is ignored unless it is in the cgroup.
    maxOpenFiles: pids.includes(init) ? parseMaxOpenFiles(readText(`/proc/${init}/limits`) ?? '') : undefined,
  };
}

const isForbidden = (error: unknown) => ['EACCES', 'EPERM'].includes((error as NodeJS.ErrnoException).code ?? '');

function isSocket(link: string): boolean {
  try {
    return readlinkSync(link).startsWith('socket:');
  } catch (error) {
    if (isGone(error) || isForbidden(error)) return false;
    throw error;
  }
}

/** The soft limit in the text of /proc/<pid>/limits: `Max open files  1024  4096  files`. */
export function parseMaxOpenFiles(text: string): bigint | undefined {
  const soft = /^Max open files\s+(\d+)/m.exec(text)?.[1];
  return soft === undefined ? undefined : BigInt(soft);
}
