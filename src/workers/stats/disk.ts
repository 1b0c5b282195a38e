/** How much a folder (a writable layer) occupies, and the file system that holds it. */
import { readFileSync, statfsSync, statSync } from 'node:fs';
import { nowNs } from '../../clock.ts';
import { parseMountinfo } from '../../sys/mountinfo.ts';
import { measureTree } from '../measure-tree.ts';
import { deviceName } from './devices.ts';
import { isGone } from './files.ts';

export interface DiskReading {
  /** Nanoseconds since the epoch, at the end of the walk. */
  timestamp: bigint;
  usedBytes: bigint;
  inodes: bigint;
  /** Wall time of the walk, in milliseconds. */
  tookMs: number;
}

export interface FilesystemReading {
  /** Device path; the file system's type where there is no block device (tmpfs, overlay). */
  device: string;
  sizeBytes: bigint;
  inodes: bigint;
  inodesFree: bigint;
}

/** Walks a folder (see {@link measureTree}). Undefined when the folder itself is gone. */
export async function readDisk(folder: string): Promise<DiskReading | undefined> {
  const began = performance.now();
  try {
    const { bytes, inodes } = await measureTree(folder);
    return {
      timestamp: nowNs(),
      usedBytes: BigInt(bytes),
      inodes: BigInt(inodes),
      tookMs: performance.now() - began,
    };
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
}

/** The file system that holds a folder; undefined when the folder is gone. */
export function readFilesystem(folder: string): FilesystemReading | undefined {
  try {
    const fs = statfsSync(folder, { bigint: true });
    return {
      device: deviceOf(statSync(folder).dev),
      sizeBytes: fs.blocks * fs.bsize,
      inodes: fs.files,
      inodesFree: fs.ffree,
    };
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
}

/** A file system without a block device has an anonymous device number, for which mountinfo gives the type. */
function deviceOf(dev: number): string {
  const major = ((dev >>> 8) & 0xfff) | 0;
  const minor = (dev & 0xff) | ((dev >>> 12) & 0xfff00);
  const name = deviceName(major, minor);
  if (name !== '') return name;
  const table = parseMountinfo(readFileSync('/proc/self/mountinfo', 'utf8'));
  return table.find(({ device }) => device === `${major}:${minor}`)?.type ?? '';
}
