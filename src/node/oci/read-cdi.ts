import { codeOf, SluiceError } from '../../errors.ts';
import { type CdiEdits, type CdiRegistry, cdiRegistry, MAX_CDI_BYTES, type RawDevice, type RawEdits } from './cdi.ts';
import type { GrantedDevice } from './devices.ts';
import type { Device } from './types.ts';

/**
 * In rising priority: what a driver writes at run time overrides what the administrator installed (CDI specification).
 */
const CDI_FOLDERS = ['/etc/cdi', '/var/run/cdi'];

/** Reads the files of a folder, sorted by name, whose names match; none when the folder does not exist. */
export type ReadFolder = (path: string, names: RegExp, maxBytes: number) => Promise<{ path: string; text: string }[]>;

/** The device nodes at a path of the host, each with its path at or below `containerPath`. */
export type FindDevices = (hostPath: string, containerPath: string) => Promise<Device[]>;

/**
 * Reads all CDI files, anew for each container that requests a device, because drivers write files while pods start.
 */
export async function readCdiRegistry(
  read: ReadFolder,
  folders: readonly string[] = CDI_FOLDERS,
): Promise<CdiRegistry> {
  const files: { path: string; text: string; priority: number }[] = [];
  for (const [priority, folder] of folders.entries()) {
    // One byte more than the limit, so that parseCdiSpec refuses a file that is cut off here.
    const found = await read(folder, /\.(json|ya?ml)$/, MAX_CDI_BYTES + 1);
    files.push(...found.map((file) => ({ ...file, priority })));
  }
  return cdiRegistry(files);
}

/**
 * Merges the edits and reads from the host what they leave out: type, major and minor number of device nodes.
 * Rejects with INVALID_REQUEST for a node that does not exist or is not a device.
 */
export async function resolveCdiEdits(all: readonly RawEdits[], find: FindDevices): Promise<CdiEdits> {
  const result: CdiEdits = { env: [], devices: [], mounts: [], hooks: [], additionalGids: [] };
  for (const edits of all) {
    result.env.push(...(edits.env ?? []));
    for (const device of edits.deviceNodes ?? []) result.devices.push(await resolveDevice(device, find));
    for (const { hostPath, containerPath, options = [], type = 'bind' } of edits.mounts ?? []) {
      const bind =
        options.some((option) => option === 'bind' || option === 'rbind') || type !== 'bind' ? [] : ['rbind'];
      result.mounts.push({ destination: containerPath, type, source: hostPath, options: [...bind, ...options] });
    }
    for (const { hookName, ...hook } of edits.hooks ?? []) result.hooks.push({ name: hookName, hook });
    result.additionalGids.push(...(edits.additionalGids ?? []));
    if (edits.intelRdt !== undefined) result.intelRdt = edits.intelRdt;
  }
  return result;
}

async function resolveDevice(raw: RawDevice, find: FindDevices): Promise<GrantedDevice> {
  const { hostPath = raw.path, path, type, major, minor, fileMode, uid, gid } = raw;
  const permissions = raw.permissions || 'rwm';
  const own = {
    ...(fileMode !== undefined && { fileMode }),
    ...(uid !== undefined && { uid }),
    ...(gid !== undefined && { gid }),
  };
  if (type === 'p' || (type !== undefined && major !== undefined && minor !== undefined)) {
    return { path, type, major: major ?? 0, minor: minor ?? 0, permissions, ...own };
  }
  try {
    // The nodes in a folder have other paths than the folder itself.
    const found = (await find(hostPath, path)).find((device) => device.path === path);
    if (found === undefined) throw new SluiceError('INVALID_REQUEST', `CDI device node ${hostPath} is not a device`);
    return {
      path,
      type: found.type,
      major: found.major,
      minor: found.minor,
      fileMode: found.fileMode,
      permissions,
      ...own,
    };
  } catch (cause) {
    const code = codeOf(cause) === 'TIMED_OUT' ? 'TIMED_OUT' : 'INVALID_REQUEST';
    throw new SluiceError(code, `CDI device node ${hostPath} cannot be used`, { cause });
  }
}
