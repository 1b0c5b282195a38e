import { constants, lstatSync, readdirSync, type Stats } from 'node:fs';
import { join } from 'node:path';
import type { MountPoint } from '../../sys/mountinfo.ts';
import { HostMounts } from './host-mounts.ts';
import { realRemotePath, remoteDevices } from './remote.ts';
import { resolve } from './resolve.ts';

/** A device node in the form of the OCI spec. */
export interface HostDevice {
  path: string;
  type: 'c' | 'b';
  major: number;
  minor: number;
  fileMode: number;
  uid: number;
  gid: number;
}

/** Entries of /dev that each container has itself, and folders of device managers that containers cannot use. */
const SKIPPED = new Set(['pts', 'shm', 'fd', 'mqueue', 'console', '.udev', '.lxc', '.lxd-mounts']);

/**
 * The device nodes at `hostPath`: the node itself, or all nodes below a folder without following symlinks. `path` of
 * each is below `containerPath`. Empty when `hostPath` is neither a device nor a folder with devices. In a local folder
 * no device is looked for on mounts that may hang. Throws the error of the file system, and TIMED_OUT for a mount that
 * hangs.
 */
export async function readDevices(
  hostPath: string,
  containerPath: string,
  mounts = new HostMounts(),
): Promise<HostDevice[]> {
  const place = resolve(hostPath, mounts);
  if (place.kind === 'remote')
    return onRemote(await realRemotePath(place.path, place.mount), containerPath, place.mount);
  if (place.kind === 'missing') {
    throw Object.assign(new Error(`ENOENT: no such file or directory: ${hostPath}`), { code: 'ENOENT' });
  }
  const info = lstatSync(place.path);
  if (info.isDirectory()) return devicesBelow(place.path, containerPath, mounts);
  const device = deviceOf(info, containerPath);
  return device === undefined ? [] : [device];
}

async function onRemote(real: string, containerPath: string, mount: MountPoint): Promise<HostDevice[]> {
  return (await remoteDevices(real, mount)).flatMap(({ path, mode, ...device }): HostDevice[] => {
    const below = path.slice(real.length).split('/');
    if (below.some((name) => SKIPPED.has(name))) return [];
    const type = (mode & constants.S_IFMT) === constants.S_IFCHR ? 'c' : 'b';
    return [{ path: join(containerPath, ...below), type, ...device, fileMode: mode & 0o777 }];
  });
}

function devicesBelow(folder: string, containerPath: string, mounts: HostMounts): HostDevice[] {
  const found: HostDevice[] = [];
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    const inContainer = join(containerPath, entry.name);
    if (SKIPPED.has(entry.name) || mounts.remote(path)) continue;
    try {
      if (entry.isDirectory()) found.push(...devicesBelow(path, inContainer, mounts));
      if (!entry.isCharacterDevice() && !entry.isBlockDevice()) continue;
      const device = deviceOf(lstatSync(path), inContainer);
      if (device) found.push(device);
    } catch (error) {
      // The device was unplugged after readdir.
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
  }
  return found;
}

/** The device node in the form of the spec; undefined when it is neither a character nor a block device. */
function deviceOf(info: Stats, path: string): HostDevice | undefined {
  const type = info.isCharacterDevice() ? 'c' : info.isBlockDevice() ? 'b' : undefined;
  if (type === undefined) return undefined;
  const { major, minor } = deviceNumbers(BigInt(info.rdev));
  return { path, type, major, minor, fileMode: info.mode & 0o777, uid: info.uid, gid: info.gid };
}

/** Major and minor number of a dev_t, which interleaves their bits (gnu_dev_major(3)). */
export function deviceNumbers(rdev: bigint): { major: number; minor: number } {
  return {
    major: Number(((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & 0xfffff000n)),
    minor: Number((rdev & 0xffn) | ((rdev >> 12n) & 0xffffff00n)),
  };
}
