/**
 * Executables of the host: where they are, whether the daemon may run them, and how. Folders that an operator names may
 * lie on mounts that hang, where a look-up, and the exec of posix_spawn too, would keep the calling thread for ever.
 */
import { accessSync, constants, statSync } from 'node:fs';
import { isAbsolute, join } from 'node:path';
import { remoteExecutable } from './host-paths/remote.ts';
import { remoteMount } from './host-paths/resolve.ts';

export interface Executable {
  path: string;
  /** Changes when the file is replaced. */
  key: string;
  /** It lies on a mount that may hang: this thread must neither read it nor exec it, see {@link commandOf}. */
  remote: boolean;
}

export type Search = { found: Executable } | { found: undefined; refused: unknown };

/**
 * The first file called `name` in these folders that may be executed; relative folders are skipped. Where there is
 * none, `refused` is the error of the last file that exists and may not be executed, or undefined. Throws TIMED_OUT
 * for a folder on a mount that hangs, before later folders are looked at.
 */
export function findExecutable(name: string, folders: readonly string[]): Promise<Search> {
  return firstExecutable(folders.filter(isAbsolute).map((folder) => join(folder, name)));
}

/** As {@link findExecutable}, for whole paths. */
export async function firstExecutable(paths: readonly string[]): Promise<Search> {
  let refused: unknown;
  for (const path of paths) {
    const mount = remoteMount(path);
    if (mount) {
      const key = await remoteExecutable(path, mount);
      if (key === REFUSED) refused = Object.assign(new Error(`EACCES: permission denied: ${path}`), { code: 'EACCES' });
      else if (key !== '') return { found: { path, key: `${path}:${key}`, remote: true } };
      continue;
    }
    try {
      const stats = statSync(path, { throwIfNoEntry: false });
      if (!stats?.isFile()) continue;
      accessSync(path, constants.X_OK);
      return { found: { path, key: `${path}:${stats.dev}:${stats.ino}:${stats.mtimeMs}`, remote: false } };
    } catch (error) {
      refused = error;
    }
  }
  return { found: undefined, refused };
}

/** What {@link remoteExecutable} answers for a file that may not be executed. */
const REFUSED = 'refused';

/**
 * How to spawn a program. posix_spawn holds the calling thread until the exec is done, which on a mount that hangs is
 * never: there a shell becomes the program.
 */
export function commandOf(
  { path, remote }: Pick<Executable, 'path' | 'remote'>,
  args: readonly string[] = [],
): { path: string; argv: string[] } {
  if (!remote) return { path, argv: [path, ...args] };
  return { path: '/bin/sh', argv: ['sh', '-c', 'exec "$0" "$@"', path, ...args] };
}
