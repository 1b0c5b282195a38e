/**
 * A shim without its start command. `containerd-shim-runc-v2 start` is a process that makes a socket, starts the same program
 * again with the socket as descriptor 3, and ends: some 10 ms of the CPU that a pod launch burns. What the long-lived process
 * gets is the same from 1.6 to 2.3 (containerd, pkg/shim: flags, environment, working folder, descriptor 3), so it can be
 * started as that command starts it. Since the socket listens before the process runs, the daemon need not wait for it.
 */
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { SluiceError } from '../../errors.ts';
import { openFd } from '../../sys/fd.ts';
import { C } from '../../sys/libc.ts';
import { launch } from '../../sys/spawn.ts';
import { listenUnix } from '../../sys/unix-socket.ts';
import { type DaemonAddresses, MAX_SOCKET_DIR } from './bootstrap.ts';
import { type ShimCall, shimEnv } from './command.ts';
import type { Program } from './program.ts';

/** What the start command of a program has taught: that it is a shim, and what it speaks. */
export interface DirectStart {
  /** The program's, as findProgram gives it; another program at its path must be asked again. */
  key: string;
  version: 2 | 3;
}

export interface DirectInput extends ShimCall {
  bundle: string;
  socketDir?: string;
}

/** Where shims put their sockets unless they are told otherwise. */
export const DEFAULT_SOCKET_DIR = '/run/containerd/s';
/** A link in the bundle by which a 2.3 shim finds the folder of its socket when it ends. */
export const SOCKET_DIR_LINK = 's';

/** Only the shim that this file knows: other shims' start commands do work of their own (kata makes its VM, others join groups). */
export function mayStartDirectly(binary: string, env: NodeJS.ProcessEnv = process.env): boolean {
  // Core scheduling is set up by the start command, for itself and what it starts.
  return basename(binary) === 'containerd-shim-runc-v2' && (env.SCHED_CORE ?? '') === '';
}

/** Shims name their sockets by the daemon's address, the namespace and the pod. */
export function socketName({ grpc }: DaemonAddresses, namespace: string, id: string): string {
  return createHash('sha256')
    .update(join(grpc, namespace, id))
    .digest('hex');
}

/**
 * Starts the long-lived process in its bundle, which must exist. Nothing says here that it works: its first answer does. Throws
 * SHIM_FAILED when it cannot be started; its socket is gone then.
 */
export function startDirectly(
  { path }: Program,
  input: DirectInput,
  { version }: DirectStart,
): { address: string; version: 2 | 3; child: number; spawnSeconds: number } {
  const { id, namespace, addresses, bundle } = input;
  const socketDir = usableDir(input.socketDir);
  const address = join(socketDir, socketName(addresses, namespace, id));
  try {
    mkdirSync(socketDir, { recursive: true, mode: 0o711 });
    // By these two the shim finds the socket to remove: the one is for 2.3, the other for its forerunners.
    symlinkSync(socketDir, join(bundle, SOCKET_DIR_LINK));
    writeFileSync(join(bundle, 'address'), `unix://${address}`, { mode: 0o600 });
    using socket = listenUnix(address);
    // Whatever it says before it opens its log itself.
    using log = openFd(join(bundle, 'log'), C.O_WRONLY | C.O_APPEND);
    const { pid, spawnSeconds } = launch({
      path,
      argv: [path, '-namespace', namespace, '-id', id, '-address', addresses.grpc],
      env: { ...shimEnv(input), OTEL_SERVICE_NAME: `containerd-shim-${id}` },
      cwd: bundle,
      inherit: socket.number,
      stderr: log.number,
    });
    raiseOomScore(pid);
    return { address, version, child: pid, spawnSeconds };
  } catch (cause) {
    rmSync(address, { force: true });
    throw new SluiceError('SHIM_FAILED', `${path} cannot be started`, { cause });
  }
}

function usableDir(dir = ''): string {
  return dir !== '' && Buffer.byteLength(dir) <= MAX_SOCKET_DIR ? dir : DEFAULT_SOCKET_DIR;
}

/** Sets the shim's oom_score_adj to one more than the daemon's, so that the OOM killer takes the shim first. */
function raiseOomScore(pid: number): void {
  const own = Number(readFileSync('/proc/self/oom_score_adj', 'latin1'));
  try {
    writeFileSync(`/proc/${pid}/oom_score_adj`, String(Math.min(own + 1, 1000)));
  } catch (error) {
    // The shim has ended already; the connection to its socket fails and its log gives the reason.
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOENT' && code !== 'ESRCH') throw error;
  }
}
