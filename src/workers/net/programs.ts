import { delimiter } from 'node:path';
import { findExecutable } from '../programs.ts';

/** PATH for plugins: the daemon's own plus the system folders of iptables and ip, which a minimal environment lacks. */
export function programPath(path = process.env.PATH ?? ''): string {
  const folders = path.split(delimiter).filter((folder) => folder !== '');
  for (const folder of ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin']) {
    if (!folders.includes(folder)) folders.push(folder);
  }
  return folders.join(delimiter);
}

/**
 * Path of the first executable file `name` in the folders; undefined when there is none. Relative folders are skipped.
 */
export function findTool(name: string, folders = programPath().split(delimiter)): string | undefined {
  return findExecutable(name, folders).found?.path;
}
