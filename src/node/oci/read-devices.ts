import { lstat, readdir, realpath } from 'node:fs/promises';
import { join } from 'node:path';
import type { Device } from './types.ts';

/** Entries of /dev that each container has itself, and folders of device managers that containers cannot use. */
const SKIPPED = new Set(['pts', 'shm', 'fd', 'mqueue', 'console', '.udev', '.lxc', '.lxd-mounts']);

/**
 * The device nodes at `hostPath`: the node itself, or all nodes below a folder without following symlinks. `path` of
 * each is below `containerPath`. Empty when `hostPath` is neither a device nor a folder with devices. Rejects with the
 * error of the file system.
 */
export async function readDevices(hostPath: string, containerPath: string): Promise<Device[]> {
  const real = await realpath(hostPath);
  const info = await lstat(real);
  if (!info.isDirectory()) {
    const device = deviceOf(info, containerPath);
    return device === undefined ? [] : [device];
  }
  const found: Device[] = [];
  for (const entry of await readdir(real, { withFileTypes: true })) {
    if (SKIPPED.has(entry.name) || !(entry.isDirectory() || entry.isCharacterDevice() || entry.isBlockDevice()))
      continue;
    try {
      found.push(...(await readDevices(join(real, entry.name), join(containerPath, entry.name))));
    } catch (error) {
      // The device was unplugged after readdir.
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
  }
  return found;
}

/** The device node in the form of the spec; undefined when it is neither a character nor a block device. */
function deviceOf(info: Awaited<ReturnType<typeof lstat>>, path: string): Device | undefined {
  const type = info.isCharacterDevice() ? 'c' : info.isBlockDevice() ? 'b' : undefined;
  if (type === undefined) return undefined;
  const { major, minor } = deviceNumbers(BigInt(info.rdev));
  return {
    path,
    type,
    major,
    minor,
    fileMode: Number(info.mode) & 0o777,
    uid: Number(info.uid),
    gid: Number(info.gid),
  };
}

/** Major and minor number of a dev_t, which interleaves their bits (gnu_dev_major(3)). */
export function deviceNumbers(rdev: bigint): { major: number; minor: number } {
  return {
    major: Number(((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & 0xfffff000n)),
    minor: Number((rdev & 0xffn) | ((rdev >> 12n) & 0xffffff00n)),
  };
}
