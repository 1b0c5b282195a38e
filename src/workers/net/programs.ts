import { delimiter } from 'node:path';
import { findExecutable } from '../programs.ts';

/** PATH for plugins: the daemon's own, with the system folders where iptables and ip are, which a bare environment lacks. */
export function programPath(path = process.env.PATH ?? ''): string {
  const folders = path.split(delimiter).filter((folder) => folder !== '');
  for (const folder of ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin']) {
    if (!folders.includes(folder)) folders.push(folder);
  }
  return folders.join(delimiter);
}

/** The first executable file called `name` in the folders; undefined where there is none. */
export function findProgram(name: string, folders = programPath().split(delimiter)): string | undefined {
  return findExecutable(name, folders).found?.path;
}
