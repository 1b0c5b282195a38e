/**
 * Finds OOM kills in the kernel's log. A cgroup's own counter disappears with the cgroup, and systemd removes a scope
 * as soon as it is empty, often before the counter was read. The log keeps the event.
 */
import { closeSync, constants, openSync, readlinkSync, readSync } from 'node:fs';

const LOG = '/dev/kmsg';
/** The longest record (Documentation/ABI/testing/dev-kmsg); a read into a shorter buffer fails with EINVAL. */
const RECORD = 8192;
const RECORD_LINE = /^(?<priority>\d+),\d+,(?<time>\d+),[^;]*;(?<message>.*)$/;
/** The timestamps in the log drift from CLOCK_MONOTONIC. */
const SLACK_US = 2_000_000;
/** Inode of the initial pid namespace (PROC_PID_INIT_INO), in whose pids the kernel logs. */
const FIRST_PID_NAMESPACE = 'pid:[4026531836]';

export interface Victim {
  /** Last component of the container's cgroupsPath, which is its id. */
  name: string;
  /** Pid of the first process; 0 when unknown. */
  pid: number;
  /**
   * When the process started, so that an earlier one with the same pid is not taken for it: microseconds of
   * CLOCK_MONOTONIC.
   */
  sinceUs: number;
}

/**
 * Does the log (records as read from /dev/kmsg) report that the OOM killer killed a process of the victim's cgroup, or
 * its first process? The kernel rate-limits the line with the cgroup, but not the one with the pid (mm/oom_kill.c).
 */
export function oomInRecords(records: string, { name, pid, sinceUs }: Victim): boolean {
  for (const record of records.split('\n')) {
    const { priority, time, message } = RECORD_LINE.exec(record)?.groups ?? {};
    // Priorities above 7 belong to records from user space, which may contain anything.
    if (!time || !message || Number(priority) > 7) continue;
    const group = /^oom-kill:.*,task_memcg=([^,]*),/.exec(message)?.[1];
    if (group?.split('/').some((part) => part === name || part.endsWith(`-${name}.scope`))) return true;
    const killed = /^(?:Memory cgroup o|O)ut of memory: Killed process (\d+) \(/.exec(message)?.[1];
    if (killed !== undefined && pid > 0 && Number(killed) === pid && Number(time) >= sinceUs - SLACK_US) return true;
  }
  return false;
}

/**
 * Searches the kernel's log for the victim. Undefined where the log is absent or may not be read (a daemon inside a
 * container).
 */
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
        if (code !== 'EPIPE') throw error; // EPIPE: records were overwritten; the next read continues after them
      }
    }
  } finally {
    closeSync(fd);
  }
}
