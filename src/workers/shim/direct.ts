/**
 * Starts a shim without its `start` command. `containerd-shim-runc-v2 start` makes a socket, starts the same program
 * again with the socket as descriptor 3, and exits, which costs some 10 ms of CPU per launch. The long-lived process
 * gets the same input from 1.6 to 2.3 (flags, environment, working directory, descriptor 3: containerd, pkg/shim), so
 * it can be started directly. The daemon need not wait for it, since the socket listens before the process runs.
 */
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { SluiceError } from '../../errors.ts';
import { openFd } from '../../sys/fd.ts';
import { C } from '../../sys/libc.ts';
import { launch } from '../../sys/spawn.ts';
import { listenUnix } from '../../sys/unix-socket.ts';
import { commandOf, type Executable } from '../programs.ts';
import { type DaemonAddresses, MAX_SOCKET_DIR } from './bootstrap.ts';
import { type ShimCall, shimEnv } from './command.ts';

/** What one run of a program's `start` command has shown: that the program is a shim, and its protocol version. */
export interface DirectStart {
  /** The program's key from findProgram; a file that replaces it has another key and must run `start` first. */
  key: string;
  version: 2 | 3;
}

export interface DirectInput extends ShimCall {
  bundle: string;
  socketDir?: string;
}

/** The shims' default folder for sockets. */
export const DEFAULT_SOCKET_DIR = '/run/containerd/s';
/** Link in the bundle to the folder of the socket; a 2.3 shim reads it to remove the socket when it ends. */
export const SOCKET_DIR_LINK = 's';

/**
 * Whether a shim may be started directly: only containerd-shim-runc-v2, since the `start` commands of other shims do
 * more (kata makes its VM, others join a group).
 */
export function mayStartDirectly(binary: string, env: NodeJS.ProcessEnv = process.env): boolean {
  // The start command sets up core scheduling for itself and its children.
  return basename(binary) === 'containerd-shim-runc-v2' && (env.SCHED_CORE ?? '') === '';
}

/**
 * The name of a shim's socket: SHA-256 of the daemon's address, the namespace and the pod's id, as shims compute it.
 */
export function socketName({ grpc }: DaemonAddresses, namespace: string, id: string): string {
  return createHash('sha256')
    .update(join(grpc, namespace, id))
    .digest('hex');
}

/**
 * Starts the long-lived process in its bundle, which must exist. A successful return does not show that the shim works;
 * its first answer does. Throws SHIM_FAILED when it cannot be started, and removes the socket then.
 */
export function startDirectly(
  program: Executable,
  input: DirectInput,
  { version }: DirectStart,
): { address: string; version: 2 | 3; child: number; spawnSeconds: number } {
  const { id, namespace, addresses, bundle } = input;
  const socketDir = usableDir(input.socketDir);
  const address = join(socketDir, socketName(addresses, namespace, id));
  try {
    mkdirSync(socketDir, { recursive: true, mode: 0o700 });
    // From these two the shim gets the socket that it removes at its end: the link is read by 2.3, the file by older
    // ones.
    symlinkSync(socketDir, join(bundle, SOCKET_DIR_LINK));
    writeFileSync(join(bundle, 'address'), `unix://${address}`, { mode: 0o600 });
    using socket = listenUnix(address);
    // Takes stderr until the shim opens its log itself.
    using log = openFd(join(bundle, 'log'), C.O_WRONLY | C.O_APPEND);
    const { pid, spawnSeconds } = launch({
      ...commandOf(program, ['-namespace', namespace, '-id', id, '-address', addresses.grpc]),
      env: { ...shimEnv(input), OTEL_SERVICE_NAME: `containerd-shim-${id}` },
      cwd: bundle,
      inherit: socket.number,
      stderr: log.number,
    });
    raiseOomScore(pid);
    return { address, version, child: pid, spawnSeconds };
  } catch (cause) {
    rmSync(address, { force: true });
    throw new SluiceError('SHIM_FAILED', `${program.path} cannot be started`, { cause });
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
