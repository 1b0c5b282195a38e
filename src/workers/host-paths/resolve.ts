import { chmodSync, lstatSync, mkdirSync, readFileSync, readlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { MountPoint } from '../../sys/mountinfo.ts';
import { HostMounts } from './host-mounts.ts';

/** The kernel's limit for symbolic links in one path (MAXSYMLINKS). */
const MAX_LINKS = 40;

/** Where a path leads. Real paths contain no symbolic link. */
export type Place =
  | { kind: 'real'; path: string }
  /** `folder` is real, and `rest`, the end of the path itself and not of a link, does not exist in it. */
  | { kind: 'missing'; folder: string; rest: string[] }
  /** The path leads to a mount that may hang. `path`: equal to the whole one, with its local part resolved. */
  | { kind: 'remote'; path: string; mount: MountPoint };

/**
 * Resolves a path as realpath(3) does, but looks at each component's mount before it touches the component, so that it
 * never waits for another machine. Throws ENOENT for a link to nothing, ELOOP after 40 links, and other errors of the
 * file system.
 */
export function resolve(path: string, mounts: HostMounts): Place {
  const todo = path.split('/').filter((name) => name !== '' && name !== '.');
  let real = '/';
  let links = 0;
  /** How many of `todo`, at its end, are the path's own; those before them come from a link. */
  let own = todo.length;
  const onRoot = mounts.remote('/');
  if (onRoot) return { kind: 'remote', path, mount: onRoot };
  for (let name = todo.shift(); name !== undefined; name = todo.shift()) {
    const fromLink = todo.length + 1 > own;
    own = Math.min(own, todo.length);
    if (name === '..') {
      real = join(real, '..');
      continue;
    }
    const next = join(real, name);
    const mount = mounts.remote(next);
    if (mount) return { kind: 'remote', path: [next, ...todo].join('/'), mount };
    const stat = lstatSync(next, { throwIfNoEntry: false });
    if (!stat) {
      if (!fromLink && !todo.includes('..')) return { kind: 'missing', folder: real, rest: [name, ...todo] };
      throw failure('ENOENT', `no such file or directory: ${next}`);
    }
    if (!stat.isSymbolicLink()) {
      if (todo.length > 0 && !stat.isDirectory()) throw failure('ENOTDIR', `not a directory: ${next}`);
      real = next;
      continue;
    }
    if (++links > MAX_LINKS) throw failure('ELOOP', `too many symbolic links in ${path}`);
    const target = readlinkSync(next);
    if (target.startsWith('/')) real = '/';
    todo.unshift(...target.split('/').filter((part) => part !== '' && part !== '.'));
  }
  return { kind: 'real', path: real };
}

/** Makes what is missing, each folder 0755, and returns the real path. */
export function makeFolders({ folder, rest }: Extract<Place, { kind: 'missing' }>): string {
  let path = folder;
  for (const name of rest) {
    path = join(path, name);
    try {
      mkdirSync(path);
      chmodSync(path, 0o755); // whatever the umask is
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
  }
  return path;
}

/**
 * As {@link resolve}, also for a path in another process's mount namespace (`/proc/PID/root/...`), which has mounts of
 * its own. Behind `root` such a path must contain no symbolic link.
 */
export function placeOf(path: string): Place {
  const [, root, own] = /^(\/proc\/\d+\/root)(\/.*)$/.exec(path) ?? [];
  if (root === undefined || own === undefined) return resolve(path, new HostMounts());
  const mount = new HostMounts(readFileSync(join(dirname(root), 'mountinfo'), 'utf8')).remote(own);
  return mount ? { kind: 'remote', path, mount } : { kind: 'real', path };
}

/**
 * The mount that may hang on which `path` lies, for callers that touch it themselves where it is local. Undefined also
 * for a path that leads nowhere: touching it fails at once. Looks at a table that may be a second old.
 */
export function remoteMount(path: string): MountPoint | undefined {
  try {
    const place = resolve(path, HostMounts.recent());
    return place.kind === 'remote' ? place.mount : undefined;
  } catch {
    return undefined;
  }
}

function failure(code: string, message: string): Error {
  return Object.assign(new Error(`${code}: ${message}`), { code });
}
