import { readFileSync } from 'node:fs';

/**
 * The fields of a process's or thread's stat file, by their numbers in proc_pid_stat(5), from the third (state) on.
 * `folder` is /proc/PID or /proc/PID/task/TID. Throws ENOENT or ESRCH when it has ended.
 */
export function procStat(folder: string): (field: number) => string {
  const stat = readFileSync(`${folder}/stat`, 'latin1');
  // The second field is the name in brackets, in which anything may stand.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (field) => fields[field - 3] ?? '';
}
