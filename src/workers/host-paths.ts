/**
 * Handlers for paths that a request or an operator names. Each may lead to a file system that hangs, so none is touched
 * on the main thread or in libuv's pool: local file systems are touched here, others by short-lived processes with a
 * time limit.
 */
import { codeOf, SluiceError } from '../errors.ts';
import { isUnder, type MountPoint } from '../sys/mountinfo.ts';
import { type HostDevice, readDevices } from './host-paths/devices.ts';
import { HostMounts } from './host-paths/host-mounts.ts';
import { listHostFolder, readHostFile, readHostFolder } from './host-paths/read-file.ts';
import { makeRemoteFolder, realRemotePath } from './host-paths/remote.ts';
import { makeFolders, resolve } from './host-paths/resolve.ts';
import type { Handlers } from './serve.ts';

export interface ResolveHostPaths {
  /** Absolute paths; a missing one is made as a folder, 0755. */
  paths: string[];
  /** Paths that are not made, nor anything below them. */
  refuse: string[];
}

export interface ResolvedHostPaths {
  /** By the path of the request. */
  real: Record<string, string>;
  /** The mounts that contain the real paths. */
  mounts: MountPoint[];
}

/**
 * Where host paths really lead. CRI (Mount.host_path): the real destination of a symbolic link is mounted, and a path
 * that does not exist is an error; containerd and CRI-O make a folder instead, which hostPath volumes of type "" rely
 * on (kubernetes issue 61460). Throws INVALID_REQUEST, DISK_FULL, and TIMED_OUT for a mount that hangs.
 */
async function resolveHostPaths({ paths, refuse }: ResolveHostPaths): Promise<ResolvedHostPaths> {
  const table = new HostMounts();
  const real: Record<string, string> = {};
  const mounts = new Map<string, MountPoint>();
  for (const path of paths) {
    try {
      real[path] = await realOrMade(path, table, refuse);
    } catch (cause) {
      const code = codeOf(cause);
      throw new SluiceError(
        code === 'INTERNAL' ? 'INVALID_REQUEST' : code,
        `mounts: the host path "${path}" cannot be mounted`,
        {
          cause,
        },
      );
    }
  }
  // Anew: an automounter has mounted what was resolved on it.
  const now = paths.some((path) => table.remote(path)) ? new HostMounts() : table;
  for (const path of Object.values(real)) {
    const mount = now.of(path);
    if (mount) mounts.set(mount.mountPoint, mount);
  }
  return { real, mounts: [...mounts.values()] };
}

async function realOrMade(path: string, table: HostMounts, refuse: readonly string[]): Promise<string> {
  const place = resolve(path, table);
  if (place.kind === 'real') return place.path;
  const checkRefused = () => {
    const refused = refuse.find((one) => isUnder(path, one));
    if (refused)
      throw new SluiceError('INVALID_REQUEST', `it does not exist, and ${refused} is in refuse_missing_host_paths`);
  };
  if (place.kind === 'missing') {
    checkRefused();
    return makeFolders(place);
  }
  try {
    return await realRemotePath(place.path, place.mount);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    checkRefused();
    await makeRemoteFolder(place.path, place.mount);
    return await realRemotePath(place.path, place.mount);
  }
}

export const hostPathHandlers = {
  resolveHostPaths,
  /** See {@link readDevices}. */
  hostDevices: ({ hostPath, containerPath }: { hostPath: string; containerPath: string }): Promise<HostDevice[]> =>
    readDevices(hostPath, containerPath),
  /** See {@link readHostFile}. */
  hostFile: ({ path, maxBytes }: { path: string; maxBytes: number }): Promise<string> => readHostFile(path, maxBytes),
  /** See {@link listHostFolder}. */
  hostNames: ({ path }: { path: string }): Promise<string[] | undefined> => listHostFolder(path),
  /** See {@link readHostFolder}; `names` is the source of a regular expression. */
  hostFolder: ({ path, names, maxBytes }: { path: string; names: string; maxBytes: number }) =>
    readHostFolder(path, new RegExp(names), maxBytes),
} satisfies Handlers;
