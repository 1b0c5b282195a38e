/**
 * Access to file systems that may hang, by short-lived processes: one in uninterruptible sleep can be left behind,
 * where a thread would be lost to its pool and would keep the daemon itself from ending.
 */
import { constants } from 'node:fs';
import { SluiceError } from '../../errors.ts';
import type { MountPoint } from '../../sys/mountinfo.ts';
import { groupLives, printed, run } from '../../sys/spawn.ts';

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

/**
 * Looks for a file that may be executed: a text that changes when the file is replaced, "refused" for one that may not
 * be executed, and "" where there is no file. Throws as {@link realRemotePath} does.
 */
export async function remoteExecutable(path: string, mount: MountPoint): Promise<string> {
  const script = 'if [ -f "$1" ]; then [ -x "$1" ] || exec echo refused; exec stat -L -c %d:%i:%Y -- "$1"; fi';
  return (await onMount(mount, path, script, 1 << 10)).toString().trim();
}

/**
 * The device at `path`, or those below a folder without following symlinks: path, type and permissions as st_mode,
 * numbers and owner. Throws as {@link realRemotePath} does.
 */
export async function remoteDevices(path: string, mount: MountPoint): Promise<RemoteDevice[]> {
  const script = `[ -e "$1" ] || exec stat -- "$1"
    exec find "$1" '(' -type b -o -type c ')' -exec stat --printf '%f %t %T %u %g %n\\0' -- '{}' +`;
  const lines = (await onMount(mount, path, script, 1 << 20)).toString().split('\0').slice(0, -1);
  return lines.map((line) => {
    const [, mode = '', major = '', minor = '', uid, gid, name = ''] =
      /^(\w+) (\w+) (\w+) (\d+) (\d+) (.*)$/s.exec(line) ?? [];
    const [st, ma, mi] = [mode, major, minor].map((text) => Number.parseInt(text, 16));
    return { path: name, mode: st ?? 0, major: ma ?? 0, minor: mi ?? 0, uid: Number(uid), gid: Number(gid) };
  });
}

export interface RemoteDevice {
  path: string;
  /** st_mode. */
  mode: number;
  major: number;
  minor: number;
  uid: number;
  gid: number;
}

/**
 * A whole regular file, piece by piece. Throws as {@link realRemotePath} does, TIMED_OUT when nothing comes for
 * `idleMs`, INVALID_REQUEST for a file that is not regular, and an Error for one that gives fewer bytes than its size.
 */
export async function* streamRemoteFile(path: string, mount: MountPoint, idleMs: number): AsyncGenerator<Buffer> {
  const [kind, size] = (await onMount(mount, path, `exec stat -L -c '%f %s' -- "$1"`, 1 << 10)).toString().split(' ');
  if ((Number.parseInt(kind ?? '', 16) & constants.S_IFMT) !== constants.S_IFREG)
    throw new SluiceError('INVALID_REQUEST', `${path} is not a regular file`);
  let missing = Number(size);
  let group = 0;
  try {
    const onStart = (pid: number) => {
      group = pid;
    };
    const cat = { path: '/bin/sh', argv: ['sh', '-c', 'exec cat -- "$1"', 'sh', path], env: ENV, idleMs, onStart };
    for await (const piece of printed(cat)) {
      missing -= piece.length;
      yield piece;
    }
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ETIMEDOUT') throw cause;
    if (await groupLives(group)) left.set(mount.mountPoint, group);
    throw new SluiceError('TIMED_OUT', `${nameOf(mount)} gave nothing for ${idleMs / 1000} s`);
  }
  if (missing > 0) throw new Error(`${path} ended ${missing} bytes early (on ${nameOf(mount)})`);
}

const nameOf = ({ type, mountPoint }: MountPoint) => `the ${type} mount ${mountPoint}`;

async function onMount(mount: MountPoint, path: string, script: string, maxOutput: number): Promise<Buffer> {
  const where = nameOf(mount);
  const before = left.get(mount.mountPoint);
  if (before !== undefined && (await groupLives(before))) {
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
  if (await groupLives(pid)) left.set(mount.mountPoint, pid);
  else left.delete(mount.mountPoint);
  if (ended.timedOut) throw new SluiceError('TIMED_OUT', `${where} did not answer within ${LIMIT_MS / 1000} s`);
  if (code === 0) return stdout;
  const words = stderr.toString().trim();
  const error = new Error(`${words || `status ${code}`} (on ${where})`);
  throw /No such file or directory$/.test(words) ? Object.assign(error, { code: 'ENOENT' }) : error;
}
