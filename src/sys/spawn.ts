/**
 * Starts processes with posix_spawn. `child_process` forks the whole daemon (14 ms at 450 MiB, during which all threads
 * stall); posix_spawn takes 0.1 to 0.6 ms whatever the size. A child gets stdin, stdout, stderr and no other descriptor
 * (all of ours are O_CLOEXEC), an empty signal mask, default signal handlers (Node ignores SIGPIPE, and a container
 * would inherit that) and its own process group, so that a timeout kills its children too.
 */
import { Socket } from 'node:net';
import { withTimeLimit } from '../time-limit.ts';
import { type Fd, memoryFile, pipe } from './fd.ts';
import { C, libc, SysError } from './libc.ts';
import { SIGKILL } from './signals.ts';
import { collectAbandoned, waitOrAbandon } from './wait.ts';

const FILE_ACTIONS_SIZE = 80; // sizeof(posix_spawn_file_actions_t), glibc, 64 bit
const ATTR_SIZE = 336; // sizeof(posix_spawnattr_t)
const SIGSET_SIZE = 128;
const SETPGROUP = 0x02;
const SETSIGDEF = 0x04;
const SETSIGMASK = 0x08;

export interface SpawnOptions {
  /** Absolute path of the program. */
  path: string;
  /** argv, the program's own name first. */
  argv: readonly string[];
  /** The complete environment; nothing is inherited. */
  env: Readonly<Record<string, string>>;
  cwd?: string;
  /** The program's whole standard input; /dev/null when left out. */
  stdin?: Uint8Array;
  /** Milliseconds after which the process group gets SIGKILL. */
  timeoutMs: number;
  /** Limit of stdout and of stderr, each, in bytes; a program that prints more is killed. Default 4 MiB. */
  maxOutput?: number;
  /** A descriptor that the program gets as its number 3; all others of ours stay closed to it. */
  inherit?: number;
  /** Descriptors that the program inherits under their own numbers. */
  keep?: readonly number[];
  /** Called with the pid once the process exists, for callers that need it while it runs. */
  onStart?: (pid: number) => void;
}

export interface SpawnResult {
  pid: number;
  /** Exit status, or null when a signal ended it. */
  code: number | null;
  /** The signal's number, or null. */
  signal: number | null;
  stdout: Buffer;
  stderr: Buffer;
  timedOut: boolean;
  /**
   * It was killed and has not ended some seconds later: it is in uninterruptible sleep (D state). `code` and
   * `signal` are null then. Its pid stays in `abandoned` (wait.ts) until it has ended.
   */
  abandoned: boolean;
  /** It printed more than `maxOutput` and was killed. */
  overflowed: boolean;
  /** Seconds that posix_spawn took, for which this thread was blocked. */
  spawnSeconds: number;
}

/**
 * Runs a program to its end, or gives it up 5 s after it was killed. No thread waits: the event loop reads the output,
 * and waitpid with WNOHANG collects the exit status once the pipes have closed. Throws {@link SysError} when the
 * program cannot be started (ENOENT, EACCES).
 */
export async function run(options: SpawnOptions): Promise<SpawnResult> {
  const { maxOutput = 4 << 20 } = options;
  const [outRead, outWrite] = pipe();
  const [errRead, errWrite] = secondPipe(outRead, outWrite);
  let pid: number;
  let spawnSeconds: number;
  try {
    using stdin = options.stdin ? memoryFile(options.stdin) : undefined;
    const began = performance.now();
    pid = start(options, stdin?.number, outWrite.number, errWrite.number);
    spawnSeconds = (performance.now() - began) / 1000;
  } catch (error) {
    outRead[Symbol.dispose]();
    errRead[Symbol.dispose]();
    throw error;
  } finally {
    outWrite[Symbol.dispose]();
    errWrite[Symbol.dispose]();
  }

  options.onStart?.(pid);
  let timedOut = false;
  let overflowed = false;
  const { promise: killed, resolve: onKilled } = Promise.withResolvers<void>();
  const kill = () => {
    libc.kill(-pid, SIGKILL);
    onKilled();
  };
  const timer = setTimeout(() => {
    timedOut = true;
    kill();
  }, options.timeoutMs);
  const onOverflow = () => {
    overflowed = true;
    kill();
  };
  const out = collect(outRead, maxOutput, onOverflow);
  const err = collect(errRead, maxOutput, onOverflow);
  const status = await waitOrAbandon(pid, options.path, Promise.all([out.done, err.done]), killed);
  clearTimeout(timer);
  // A grandchild may hold the pipes open after the program has ended; what the program itself wrote is in them by now.
  await withTimeLimit(Promise.all([out.done, err.done]), 100, () => undefined);
  return {
    pid,
    ...decodeStatus(status),
    stdout: out.take(),
    stderr: err.take(),
    timedOut,
    overflowed,
    abandoned: status === undefined,
    spawnSeconds,
  };
}

function decodeStatus(status: number | undefined): { code: number | null; signal: number | null } {
  if (status === undefined) return { code: null, signal: null };
  const signal = status & 0x7f;
  return signal === 0 ? { code: (status >> 8) & 0xff, signal: null } : { code: null, signal };
}

/** A pipe; where there is no descriptor left for it (EMFILE), the ends of the first one are closed. */
function secondPipe(...first: [Fd, Fd]): [read: Fd, write: Fd] {
  try {
    return pipe();
  } catch (error) {
    for (const end of first) end[Symbol.dispose]();
    throw error;
  }
}

/** For {@link printed}. */
export interface PrintedOptions extends Pick<SpawnOptions, 'path' | 'argv' | 'env' | 'cwd'> {
  /** Milliseconds that the program may print nothing while somebody reads; then it gets SIGKILL. */
  idleMs: number;
  /** Called with the pid once the process exists. */
  onStart?: (pid: number) => void;
}

/**
 * Runs a program and yields what it prints to stdout, piece by piece, at the reader's pace; its exit status is not
 * looked at. It is killed when the reader stops before the end. Throws {@link SysError} when the program cannot be
 * started, and an Error with code ETIMEDOUT when it printed nothing for too long.
 */
export async function* printed({ idleMs, onStart, ...options }: PrintedOptions): AsyncGenerator<Buffer, void> {
  const [read, write] = pipe();
  let pid: number;
  try {
    pid = start(options, undefined, write.number);
  } catch (error) {
    read[Symbol.dispose]();
    throw error;
  } finally {
    write[Symbol.dispose]();
  }
  onStart?.(pid);
  const socket = new Socket({ fd: read.release(), readable: true, writable: false });
  const { promise: closed, resolve: onClosed } = Promise.withResolvers<void>();
  socket.on('close', () => onClosed());
  const { promise: killed, resolve: onKilled } = Promise.withResolvers<void>();
  let ended = false;
  const end = waitOrAbandon(pid, options.path, closed, killed).then((status) => {
    ended = status !== undefined;
  });
  let late = false;
  try {
    const pieces = socket[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
    for (;;) {
      const next = await withTimeLimit(pieces.next(), idleMs, () => undefined);
      late = next === undefined;
      if (!next || next.done) break;
      yield next.value;
    }
  } finally {
    if (!ended) libc.kill(-pid, SIGKILL);
    onKilled();
    socket.destroy();
    await end;
  }
  if (late)
    throw Object.assign(new Error(`${options.path} printed nothing for ${idleMs / 1000} s`), { code: 'ETIMEDOUT' });
}

type Startable = Pick<SpawnOptions, 'path' | 'argv' | 'env' | 'cwd' | 'inherit' | 'keep'>;

/** For a program without a time limit; stdio without a descriptor is /dev/null. */
export interface LaunchOptions extends Pick<SpawnOptions, 'path' | 'argv' | 'env' | 'cwd' | 'inherit'> {
  stdin?: number;
  stderr?: number;
}

/**
 * Starts a program in its own process group and does not wait for it. The caller collects its exit status with
 * reap() (wait.ts); init does when the daemon ends first. Throws {@link SysError}.
 */
export function launch({ stdin, stderr, ...options }: LaunchOptions): { pid: number; spawnSeconds: number } {
  const began = performance.now();
  const pid = start(options, stdin, undefined, stderr);
  return { pid, spawnSeconds: (performance.now() - began) / 1000 };
}

/**
 * Whether the process group of a program that was started here still has a process, one in uninterruptible sleep for
 * example.
 */
export async function groupLives(pid: number): Promise<boolean> {
  await collectAbandoned(pid); // or kill(2) would find a zombie
  return libc.kill(-pid, 0) === 0;
}

function start(options: Startable, stdin?: number, stdout?: number, stderr?: number): number {
  const actions = Buffer.alloc(FILE_ACTIONS_SIZE);
  const attr = Buffer.alloc(ATTR_SIZE);
  const none = Buffer.alloc(SIGSET_SIZE);
  const all = Buffer.alloc(SIGSET_SIZE, 0xff);
  libc.actionsInit(actions);
  libc.attrInit(attr);
  try {
    if (options.cwd !== undefined) libc.actionsChdir(actions, options.cwd);
    if (stdin === undefined) libc.actionsOpen(actions, 0, '/dev/null', C.O_RDONLY, 0);
    else libc.actionsDup2(actions, stdin, 0);
    for (const [number, fd] of [stdout, stderr].entries()) {
      if (fd === undefined) libc.actionsOpen(actions, number + 1, '/dev/null', C.O_WRONLY, 0);
      else libc.actionsDup2(actions, fd, number + 1);
    }
    if (options.inherit !== undefined) libc.actionsDup2(actions, options.inherit, 3);
    // dup2 of a descriptor onto itself clears its FD_CLOEXEC, in the child alone (POSIX; glibc since 2.29).
    for (const fd of options.keep ?? []) libc.actionsDup2(actions, fd, fd);
    libc.attrSetFlags(attr, SETPGROUP | SETSIGDEF | SETSIGMASK);
    libc.attrSetSigmask(attr, none);
    libc.attrSetSigdefault(attr, all);
    const env = Object.entries(options.env).map(([name, value]) => `${name}=${value}`);
    const pid: [number] = [0];
    const code = libc.posixSpawn(pid, options.path, actions, attr, [...options.argv, null], [...env, null]);
    if (code !== 0) throw new SysError('posix_spawn', code, options.path);
    return pid[0];
  } finally {
    libc.actionsDestroy(actions);
    libc.attrDestroy(attr);
  }
}

/** Reads a pipe to its end on the event loop; keeps at most `max` bytes. */
function collect(pipe: Fd, max: number, onOverflow: () => void): { done: Promise<void>; take: () => Buffer } {
  const chunks: Buffer[] = [];
  let size = 0;
  const keep = (chunk: Buffer) => {
    size += chunk.length;
    if (size <= max) chunks.push(chunk);
    else onOverflow();
  };
  const fd = pipe.release();
  const socket = new Socket({ fd, readable: true, writable: false });
  const { promise, resolve } = Promise.withResolvers<void>();
  socket.on('data', keep);
  // A read from a pipe fails only when its descriptor is bad; the caller then sees the output missing.
  socket.on('error', () => resolve());
  socket.on('close', () => resolve());
  return {
    done: promise,
    take: () => {
      // On a busy machine the timer may fire before the event loop has polled the pipe, which contains the program's
      // output by then.
      if (!socket.destroyed) for (const chunk of drain(fd)) keep(chunk);
      socket.destroy();
      return Buffer.concat(chunks);
    },
  };
}

/** The bytes that are in a pipe now. libuv has made the descriptor non-blocking, so the last read returns EAGAIN. */
function* drain(fd: number): Generator<Buffer> {
  for (;;) {
    const chunk = Buffer.alloc(64 << 10);
    const length = Number(libc.read(fd, chunk, chunk.length));
    if (length <= 0) return;
    yield chunk.subarray(0, length);
  }
}
