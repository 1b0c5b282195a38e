import { existsSync, mkdirSync, rmdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { SluiceError } from '../errors.ts';
import { resolveInRoot } from '../sys/in-root.ts';
import { run } from '../sys/spawn.ts';
import { type MountSpec, mountRootfs, unmountRootfs } from './shim/rootfs.ts';

const COPY_SECONDS = 600;

export interface CopyFromImage {
  /** Folder on which the image is mounted for the time of the copy; made and removed here. */
  scratch: string;
  /** Read-only mounts of the image. */
  mounts: MountSpec[];
  /** `from` is a path in the image, `to` a folder on the host that is made. */
  copies: { from: string; to: string }[];
}

/**
 * Copies folders out of an image, with owners, modes, times, links, devices and xattrs. It runs coreutils' cp, which
 * preserves all of these, as a separate process, so that a large volume does not block the worker's thread. A path that
 * the image does not contain leaves `to` empty and 0755, as the container sees it then. Throws DISK_FULL or INTERNAL
 * with the words of cp.
 */
export async function copyFromImage({ scratch, mounts, copies }: CopyFromImage): Promise<void> {
  mkdirSync(scratch, { recursive: true, mode: 0o700 });
  for (const { to } of copies) {
    mkdirSync(dirname(to), { recursive: true, mode: 0o700 });
    mkdirSync(to, { recursive: true, mode: 0o755 });
  }
  try {
    mountRootfs({ target: scratch, mounts });
    for (const { from, to } of copies) {
      const source = resolveInRoot(scratch, from);
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
  const why = timedOut ? `cp did not end within ${COPY_SECONDS} s` : stderr.toString().trim();
  throw new SluiceError(
    /No space left/.test(why) ? 'DISK_FULL' : 'INTERNAL',
    `copying a volume out of the image failed: ${why}`,
  );
}
