/**
 * Access to file systems that may hang, by short-lived processes: one in uninterruptible sleep can be left behind,
 * where a thread would be lost to its pool and would keep the daemon itself from ending.
 */
import { SluiceError } from '../../errors.ts';
import type { MountPoint } from '../../sys/mountinfo.ts';
import { groupLives, run } from '../../sys/spawn.ts';

const LIMIT_MS = 10_000;
const ENV = { LC_ALL: 'C', PATH: '/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin' };
/** Process groups that were left behind on a mount, by mount point; as long as one lives no other follows it. */
const left = new Map<string, number>();

/** The real path of `path`, which lies on `mount`. Throws ENOENT and other errors of the file system, and TIMED_OUT. */
export async function realRemotePath(path: string, mount: MountPoint): Promise<string> {
  const real = await onMount(mount, path, 'exec realpath -ez -- "$1"', 4 << 20);
  return real.toString().replace(/\0$/, '');
}

/** Makes a folder and those above it, 0755. Throws as {@link realRemotePath} does. */
export async function makeRemoteFolder(path: string, mount: MountPoint): Promise<void> {
  await onMount(mount, path, 'umask 022; exec mkdir -p -- "$1"', 1 << 10);
}

/** Makes a file (0640), unless it exists, and the folders above it (0755). Throws as {@link realRemotePath} does. */
export async function makeRemoteFile(path: string, mount: MountPoint): Promise<void> {
  await onMount(mount, path, 'umask 022; mkdir -p -- "$(dirname -- "$1")" && umask 027 && : >>"$1"', 1 << 10);
}

/** The beginning of a file, at most `maxBytes`. Throws as {@link realRemotePath} does. */
export function readRemoteFile(path: string, mount: MountPoint, maxBytes: number): Promise<Buffer> {
  return onMount(mount, path, `exec head -c ${maxBytes} -- "$1"`, maxBytes);
}

/** Names of a folder's entries that are not folders. Throws as {@link realRemotePath} does. */
export async function listRemoteFolder(path: string, mount: MountPoint): Promise<string[]> {
  const script = `exec find "$1" -mindepth 1 -maxdepth 1 ! -type d -printf '%f\\0'`;
  const names = await onMount(mount, path, script, 1 << 20);
  return names.toString().split('\0').slice(0, -1);
}

async function onMount(mount: MountPoint, path: string, script: string, maxOutput: number): Promise<Buffer> {
  const where = `the ${mount.type} mount ${mount.mountPoint}`;
  const before = left.get(mount.mountPoint);
  if (before !== undefined && groupLives(before)) {
    throw new SluiceError('TIMED_OUT', `${where} hangs: process ${before} has been waiting for it for a while`);
  }
  const argv = ['sh', '-c', script, 'sh', path];
  const { pid, code, stdout, stderr, ...ended } = await run({
    path: '/bin/sh',
    argv,
    env: ENV,
    timeoutMs: LIMIT_MS,
    maxOutput,
  });
  // The shell may have ended where a child of it cannot.
  if (groupLives(pid)) left.set(mount.mountPoint, pid);
  else left.delete(mount.mountPoint);
  if (ended.timedOut) throw new SluiceError('TIMED_OUT', `${where} did not answer within ${LIMIT_MS / 1000} s`);
  if (code === 0) return stdout;
  const words = stderr.toString().trim();
  const error = new Error(`${words || `status ${code}`} (on ${where})`);
  throw /No such file or directory$/.test(words) ? Object.assign(error, { code: 'ENOENT' }) : error;
}
