import { existsSync, mkdirSync, rmdirSync } from 'node:fs';
import { SluiceError } from '../errors.ts';
import { within } from '../sys/in-root.ts';
import { run } from '../sys/spawn.ts';
import { type MountSpec, mountRootfs, unmountRootfs } from './shim/rootfs.ts';

const COPY_SECONDS = 600;

export interface CopyFromImage {
  /** Folder to mount the image on meanwhile; made and removed here. */
  scratch: string;
  /** Read-only mounts of the image. */
  mounts: MountSpec[];
  /** `from` is a path in the image, `to` an empty folder on the host. */
  copies: { from: string; to: string }[];
}

/**
 * Copies folders out of an image, with owners, modes, times, links, devices and xattrs. By coreutils' cp: what it gets right is long,
 * and a process of its own keeps a large volume off the worker's thread. A path the image does not have leaves `to` empty.
 */
export async function copyFromImage({ scratch, mounts, copies }: CopyFromImage): Promise<void> {
  mkdirSync(scratch, { recursive: true, mode: 0o700 });
  try {
    mountRootfs({ target: scratch, mounts });
    for (const { from, to } of copies) {
      const source = within(scratch, from);
      if (existsSync(source)) await copy(source, to);
    }
  } finally {
    unmountRootfs({ target: scratch });
    rmdirSync(scratch);
  }
}

async function copy(source: string, to: string): Promise<void> {
  const { code, stderr, timedOut } = await run({
    path: '/bin/cp',
    argv: ['cp', '-a', '--no-target-directory', source, to],
    env: { LC_ALL: 'C', PATH: '/usr/bin:/bin' },
    timeoutMs: COPY_SECONDS * 1000,
  });
  if (code === 0) return;
  const why = timedOut ? `no end within ${COPY_SECONDS} s` : stderr.toString().trim();
  throw new SluiceError(
    /No space left/.test(why) ? 'DISK_FULL' : 'INTERNAL',
    `copying a volume out of the image failed: ${why}`,
  );
}
