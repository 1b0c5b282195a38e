import { constants, lstatSync, readdirSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { openFd } from '../../sys/fd.ts';
import { HostMounts } from './host-mounts.ts';
import { listRemoteFolder, readRemoteFile } from './remote.ts';
import { resolve } from './resolve.ts';

/**
 * The beginning of a file of the host, at most `maxBytes`. Throws the error of the file system, TIMED_OUT for a mount
 * that hangs, and an Error for a file that is not regular.
 */
export async function readHostFile(path: string, maxBytes: number, mounts = new HostMounts()): Promise<string> {
  const place = resolve(path, mounts);
  if (place.kind === 'remote') return (await readRemoteFile(place.path, place.mount, maxBytes)).toString();
  if (place.kind === 'missing') {
    throw Object.assign(new Error(`ENOENT: no such file or directory: ${path}`), { code: 'ENOENT' });
  }
  // A FIFO would keep the open waiting for a writer; O_NONBLOCK covers one that replaces the file here.
  if (!lstatSync(place.path).isFile()) throw new Error(`${path} is not a regular file`);
  using file = openFd(place.path, constants.O_RDONLY | constants.O_NONBLOCK);
  const chunks: Buffer[] = [];
  for (let size = 0; size < maxBytes; ) {
    const chunk = Buffer.alloc(Math.min(64 << 10, maxBytes - size));
    const count = readSync(file.number, chunk, 0, chunk.length, null);
    if (count === 0) break;
    chunks.push(chunk.subarray(0, count));
    size += count;
  }
  return Buffer.concat(chunks).toString();
}

/**
 * Names of a folder's entries that are not folders, sorted by their bytes; undefined when it does not exist.
 * Throws the error of the file system, and TIMED_OUT for a mount that hangs.
 */
export async function listHostFolder(path: string, mounts = new HostMounts()): Promise<string[] | undefined> {
  let names: string[];
  try {
    const place = resolve(path, mounts);
    if (place.kind === 'missing') return undefined;
    names =
      place.kind === 'remote'
        ? await listRemoteFolder(place.path, place.mount)
        : readdirSync(place.path, { withFileTypes: true }).flatMap((one) => (one.isDirectory() ? [] : [one.name]));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  return names.sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
}

/** Reads the files of a folder whose names match; none when it does not exist. See {@link readHostFile}. */
export async function readHostFolder(
  folder: string,
  names: RegExp,
  maxBytes: number,
  mounts = new HostMounts(),
): Promise<{ path: string; text: string }[]> {
  const files: { path: string; text: string }[] = [];
  for (const name of (await listHostFolder(folder, mounts)) ?? []) {
    if (!names.test(name)) continue;
    const path = join(folder, name);
    files.push({ path, text: await readHostFile(path, maxBytes, mounts) });
  }
  return files;
}

/** Reads files and folders that an operator or a request names, and that may lie on a mount that hangs. */
export interface HostFiles {
  /** See {@link listHostFolder}. */
  names: (folder: string) => Promise<string[] | undefined>;
  /** See {@link readHostFile}. */
  read: (path: string, maxBytes: number) => Promise<string>;
}

/** Reads in the caller's thread, which waits for no mount. */
export const hostFiles: HostFiles = {
  names: (path) => listHostFolder(path),
  read: (path, maxBytes) => readHostFile(path, maxBytes),
};
