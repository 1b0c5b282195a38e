/** Disks of a test's own, and ways to fill them. */
import assert from 'node:assert/strict';
import { readFileSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { isOutOfSpace } from '../../src/errors.ts';
import { findProgram, privateFolder } from './paths.ts';
import { run } from './proc.ts';
import { tidyAtSignal } from './tidy.ts';

const MIB = 2 ** 20;

/** A file system that is mounted at `path`; disposal unmounts it and whatever is mounted over it. */
export interface Disk extends AsyncDisposable {
  path: string;
}

/** A tmpfs of this many MiB. */
export async function smallTmpfs(mib: number): Promise<Disk> {
  const path = privateFolder('sluice-tmpfs');
  await run('mount', ['-t', 'tmpfs', '-o', `size=${mib}m,mode=711`, 'sluice-test', path]);
  return disk(path, path);
}

/**
 * An ext4 of this many MiB in a file, `image`, with a journal. `direct`: the file has all its blocks, and is written
 * past the page cache, so that the disk takes as long as without a file between.
 */
export async function ext4InFile(mib: number, { direct = false } = {}): Promise<Disk & { image: string }> {
  const folder = privateFolder('sluice-ext4');
  const path = join(folder, 'mounted');
  const image = join(folder, 'image');
  await run('mkdir', [path]);
  if (direct) await run('fallocate', ['-l', `${mib}M`, image]);
  else await run('truncate', ['-s', `${mib}M`, image]);
  await run('mkfs.ext4', ['-q', image]);
  await run('mount', ['-o', 'loop', image, path]);
  if (direct) await run('losetup', ['--direct-io=on', (await run('findmnt', ['-no', 'SOURCE', path])).stdout.trim()]);
  return { image, ...disk(path, folder) };
}

export const SKIP_QUOTA: string | false =
  process.getuid?.() !== 0
    ? 'needs root'
    : !/\bbtrfs$/m.test(readFileSync('/proc/filesystems', 'utf8'))
      ? 'the kernel has no btrfs'
      : findProgram('mkfs.btrfs')
        ? false
        : 'needs btrfs-progs';

/**
 * A btrfs subvolume that may hold this many MiB, in a file that has room for more: what does not fit fails with EDQUOT,
 * for root too, and the file system still has free blocks.
 */
export async function quotaInFile(mib: number): Promise<Disk> {
  const folder = privateFolder('sluice-quota');
  const [image, mounted] = [join(folder, 'image'), join(folder, 'mounted')];
  await run('mkdir', [mounted]);
  await run('truncate', ['-s', `${Math.max(128, 3 * mib)}M`, image]);
  // Small ones are "mixed": data and metadata share their room.
  await run('mkfs.btrfs', ['-q', '-M', '-m', 'single', '-d', 'single', image]);
  await run('mount', ['-o', 'loop', image, mounted]);
  const path = join(mounted, 'limited');
  await run('btrfs', ['subvolume', 'create', path]);
  await run('btrfs', ['quota', 'enable', mounted]);
  await run('btrfs', ['qgroup', 'limit', `${mib}M`, path]);
  return { ...disk(mounted, folder), path };
}

function disk(path: string, folder: string): Disk {
  const remove = async () => {
    // Once for the disk, and once for what a test has mounted over it.
    for (let n = 0; n < 2; n++) await run('umount', [path], { check: false });
    await run('umount', ['-l', path], { check: false });
    rmSync(folder, { recursive: true, force: true });
  };
  const untidy = tidyAtSignal(remove);
  return {
    path,
    async [Symbol.asyncDispose]() {
      await remove();
      untidy();
    },
  };
}

/** Bytes that are free at `path`. */
export function freeBytes(path: string): number {
  const { bavail, bsize } = statfsSync(path);
  return bavail * bsize;
}

/** Takes the last byte of the disk, or of its quota, with a file of this path. */
export function fill(path: string): void {
  for (let size = 4 * MIB; size >= 1; size = Math.floor(size / 4)) {
    for (;;) {
      try {
        writeFileSync(path, Buffer.alloc(size), { flag: 'a' });
      } catch (error) {
        assert.ok(error instanceof Error && isOutOfSpace(error), String(error));
        break;
      }
    }
  }
}
