import { delimiter } from 'node:path';
import { type Executable, findExecutable } from '../programs.ts';

/** PATH for plugins: the daemon's own plus the system folders of iptables and ip, which a minimal environment lacks. */
export function programPath(path = process.env.PATH ?? ''): string {
  const folders = path.split(delimiter).filter((folder) => folder !== '');
  for (const folder of ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin']) {
    if (!folders.includes(folder)) folders.push(folder);
  }
  return folders.join(delimiter);
}

/**
 * The first executable file `name` in the folders; undefined when there is none. Relative folders are skipped. Throws
 * TIMED_OUT for a folder on a mount that hangs.
 */
export async function findTool(
  name: string,
  folders = programPath().split(delimiter),
): Promise<Executable | undefined> {
  return (await findExecutable(name, folders)).found;
}
