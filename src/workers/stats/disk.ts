/** How much a folder (a writable layer) takes, as `du` counts it, and the file system it lies on. */
import { lstatSync, readdirSync, readFileSync, type Stats, statfsSync } from 'node:fs';
import { join } from 'node:path';
import { breather } from './breathe.ts';
import { deviceName } from './devices.ts';
import { isGone } from './files.ts';

export interface DiskReading {
  /** Nanoseconds since the epoch, at the end of the walk. */
  timestamp: bigint;
  usedBytes: bigint;
  inodes: bigint;
  /** What the walk took, in milliseconds of wall time. */
  tookMs: number;
}

export interface FilesystemReading {
  /** Device path; the file system's type where there is no block device (tmpfs, overlay). */
  device: string;
  sizeBytes: bigint;
  inodes: bigint;
  inodesFree: bigint;
}

/**
 * Walks a folder in slices, so that the thread stays usable; hard links count once, other file systems not at all. What vanishes
 * meanwhile is not counted. Undefined when the folder itself is gone.
 */
export async function readDisk(folder: string): Promise<DiskReading | undefined> {
  const began = performance.now();
  const breathe = breather();
  const top = look(folder);
  if (!top) return undefined;
  let blocks = BigInt(top.blocks);
  let inodes = 1n;
  const linked = new Set<number>();
  const folders = [folder];
  for (let current = folders.pop(); current !== undefined; current = folders.pop()) {
    for (const name of list(current)) {
      const path = join(current, name);
      const stat = look(path);
      await breathe();
      if (!stat || stat.dev !== top.dev) continue;
      if (stat.isDirectory()) folders.push(path);
      else if (stat.nlink > 1) {
        if (linked.has(stat.ino)) continue;
        linked.add(stat.ino);
      }
      blocks += BigInt(stat.blocks);
      inodes++;
    }
  }
  return {
    timestamp: BigInt(Date.now()) * 1_000_000n,
    usedBytes: blocks * 512n,
    inodes,
    tookMs: performance.now() - began,
  };
}

/** The file system that a folder lies on; undefined when the folder is gone. */
export function readFilesystem(folder: string): FilesystemReading | undefined {
  try {
    const fs = statfsSync(folder, { bigint: true });
    return {
      device: deviceOf(lstatSync(folder).dev),
      sizeBytes: fs.blocks * fs.bsize,
      inodes: fs.files,
      inodesFree: fs.ffree,
    };
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
}

/** A file system without a block device has an anonymous number, which only mountinfo can name. */
function deviceOf(dev: number): string {
  const major = ((dev >>> 8) & 0xfff) | 0;
  const minor = (dev & 0xff) | ((dev >>> 12) & 0xfff00);
  const name = deviceName(major, minor);
  if (name !== '') return name;
  for (const line of readFileSync('/proc/self/mountinfo', 'latin1').split('\n')) {
    const [before = '', after = ''] = line.split(' - ');
    if (before.split(' ')[2] === `${major}:${minor}`) return after.split(' ')[0] ?? '';
  }
  return '';
}

function look(path: string): Stats | undefined {
  try {
    return lstatSync(path);
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
}

function list(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch (error) {
    if (isGone(error)) return [];
    throw error;
  }
}
