import { lstat, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { SluiceError } from '../../errors.ts';
import { type CdiEdits, type CdiRegistry, cdiRegistry, type RawDevice, type RawEdits } from './cdi.ts';
import type { GrantedDevice } from './devices.ts';
import { readDevices } from './read-devices.ts';

/** Later folders win: what a driver wrote at run time over what the administrator installed. */
export const CDI_FOLDERS = ['/etc/cdi', '/var/run/cdi'];

/** Reads all CDI files. Done anew for each container that asks for a device: drivers write files while pods start. */
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
      files.push({ path, text: await readFile(path, 'utf8'), priority });
    }
  }
  return cdiRegistry(files);
}

/** Looks up on the host what the edits leave open: type and numbers of device nodes. Throws INVALID_REQUEST for a node that is not there. */
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
    if (found === undefined) throw new SluiceError('INVALID_REQUEST', `CDI device node ${hostPath} is no device`);
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
