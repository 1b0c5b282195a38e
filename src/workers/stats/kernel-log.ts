/**
 * OOM kills in the kernel's log. A cgroup's own count goes with the cgroup, and systemd takes a scope away as soon as it is empty: often
 * before anybody has read it. What the kernel logged stays.
 */
import { closeSync, constants, openSync, readlinkSync, readSync } from 'node:fs';

const LOG = '/dev/kmsg';
/** Longest record, see Documentation/ABI/testing/dev-kmsg; a shorter buffer is answered with EINVAL. */
const RECORD = 8192;
const RECORD_LINE = /^(?<priority>\d+),\d+,(?<time>\d+),[^;]*;(?<message>.*)$/;
/** The kernel's clock for its log drifts from CLOCK_MONOTONIC. */
const SLACK_US = 2_000_000;
/** Inode of the first pid namespace (PROC_PID_INIT_INO): the kernel logs pids as that one counts them. */
const FIRST_PID_NAMESPACE = 'pid:[4026531836]';

export interface Victim {
  /** Last part of the container's cgroupsPath, its id. */
  name: string;
  /** First process; 0 when it is unknown. */
  pid: number;
  /** Since when the pid is that process's: microseconds of CLOCK_MONOTONIC. */
  sinceUs: number;
}

/**
 * Does the text of the log (records as read from /dev/kmsg) say that the OOM killer ended a process of the victim's cgroup, or its first
 * process? The line with the cgroup is rate limited (mm/oom_kill.c), the one with the pid is not.
 */
export function oomInRecords(records: string, { name, pid, sinceUs }: Victim): boolean {
  for (const record of records.split('\n')) {
    const { priority, time, message } = RECORD_LINE.exec(record)?.groups ?? {};
    // Above the eight levels are the facilities of user space, which can write anything.
    if (!time || !message || Number(priority) > 7) continue;
    const group = /^oom-kill:.*,task_memcg=([^,]*),/.exec(message)?.[1];
    if (group?.split('/').some((part) => part === name || part.endsWith(`-${name}.scope`))) return true;
    const killed = /^(?:Memory cgroup o|O)ut of memory: Killed process (\d+) \(/.exec(message)?.[1];
    if (killed !== undefined && pid > 0 && Number(killed) === pid && Number(time) >= sinceUs - SLACK_US) return true;
  }
  return false;
}

/** Asks the kernel's log. Undefined where it may not be read or is not there (a daemon inside a container). */
export function oomInKernelLog(victim: Victim): boolean | undefined {
  const records = readKernelLog();
  if (records === undefined) return undefined;
  const pid = readlinkSync('/proc/self/ns/pid') === FIRST_PID_NAMESPACE ? victim.pid : 0;
  return oomInRecords(records, { ...victim, pid });
}

function readKernelLog(): string | undefined {
  let fd: number;
  try {
    fd = openSync(LOG, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'EPERM' || code === 'EACCES' || code === 'ENXIO') return undefined;
    throw error;
  }
  try {
    const buffer = Buffer.alloc(RECORD);
    let text = '';
    for (;;) {
      try {
        const length = readSync(fd, buffer);
        if (length === 0) return text;
        text += buffer.toString('latin1', 0, length);
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException;
        if (code === 'EAGAIN') return text; // the end of the log
        if (code !== 'EPIPE') throw error; // EPIPE: records were overwritten meanwhile; the next read goes on after them
      }
    }
  } finally {
    closeSync(fd);
  }
}
