/** Executables of the host: where they are, and whether the daemon may run them. */
import { accessSync, constants, type Stats, statSync } from 'node:fs';
import { isAbsolute, join } from 'node:path';

export interface Executable {
  path: string;
  stats: Stats;
}

/**
 * The first file called `name` in these folders that may be executed; relative folders are skipped. Where there is
 * none, `refused` is the error of the last file that exists and may not be executed, or undefined.
 */
export function findExecutable(
  name: string,
  folders: readonly string[],
): { found: Executable } | { found: undefined; refused: unknown } {
  return firstExecutable(folders.filter(isAbsolute).map((folder) => join(folder, name)));
}

/** As {@link findExecutable}, for whole paths. */
export function firstExecutable(
  paths: readonly string[],
): { found: Executable } | { found: undefined; refused: unknown } {
  let refused: unknown;
  for (const path of paths) {
    try {
      const stats = statSync(path, { throwIfNoEntry: false });
      if (!stats?.isFile()) continue;
      accessSync(path, constants.X_OK);
      return { found: { path, stats } };
    } catch (error) {
      refused = error;
    }
  }
  return { found: undefined, refused };
}
