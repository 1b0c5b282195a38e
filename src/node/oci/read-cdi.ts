import { createReadStream } from 'node:fs';
import { lstat, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { SluiceError } from '../../errors.ts';
import { type CdiEdits, type CdiRegistry, cdiRegistry, MAX_CDI_BYTES, type RawDevice, type RawEdits } from './cdi.ts';
import type { GrantedDevice } from './devices.ts';
import { readDevices } from './read-devices.ts';

/**
 * In rising priority: what a driver writes at run time overrides what the administrator installed (CDI specification).
 */
const CDI_FOLDERS = ['/etc/cdi', '/var/run/cdi'];

/**
 * Reads all CDI files, anew for each container that requests a device, because drivers write files while pods start.
 */
export async function readCdiRegistry(folders: readonly string[] = CDI_FOLDERS): Promise<CdiRegistry> {
  const files: { path: string; text: string; priority: number }[] = [];
  for (const [priority, folder] of folders.entries()) {
    let names: string[];
    try {
      names = await readdir(folder);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') continue;
      throw error;
    }
    for (const name of names.sort()) {
      if (!/\.(json|ya?ml)$/.test(name)) continue;
      const path = join(folder, name);
      // One byte more than the limit, so that parseCdiSpec refuses a file that is cut off here.
      files.push({ path, text: await text(createReadStream(path, { end: MAX_CDI_BYTES })), priority });
    }
  }
  return cdiRegistry(files);
}

/**
 * Merges the edits and reads from the host what they leave out: type, major and minor number of device nodes.
 * Rejects with INVALID_REQUEST for a node that does not exist or is not a device.
 */
export async function resolveCdiEdits(all: readonly RawEdits[]): Promise<CdiEdits> {
  const result: CdiEdits = { env: [], devices: [], mounts: [], hooks: [], additionalGids: [] };
  for (const edits of all) {
    result.env.push(...(edits.env ?? []));
    for (const device of edits.deviceNodes ?? []) result.devices.push(await resolveDevice(device));
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

async function resolveDevice(raw: RawDevice): Promise<GrantedDevice> {
  const { hostPath = raw.path, permissions = 'rwm', path, type, major, minor, fileMode, uid, gid } = raw;
  const own = {
    ...(fileMode !== undefined && { fileMode }),
    ...(uid !== undefined && { uid }),
    ...(gid !== undefined && { gid }),
  };
  if (type === 'p' || (type !== undefined && major !== undefined && minor !== undefined)) {
    return { path, type, major: major ?? 0, minor: minor ?? 0, permissions, ...own };
  }
  try {
    const info = await lstat(hostPath);
    const [found] = info.isDirectory() ? [] : await readDevices(hostPath, path);
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
    throw new SluiceError('INVALID_REQUEST', `CDI device node ${hostPath} cannot be used`, { cause });
  }
}
