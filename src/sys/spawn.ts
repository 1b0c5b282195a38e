/**
 * Processes by posix_spawn. `child_process` forks the whole daemon (14 ms at 450 MiB, all threads stalled); posix_spawn costs
 * 0.1 to 0.6 ms whatever the size. A child gets stdin, stdout, stderr and nothing else (all our descriptors are
 * close-on-exec), an empty signal mask, default signal handlers (Node ignores SIGPIPE, and a container would inherit that)
 * and a process group of its own, so that a timeout ends its children too.
 */
import { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Fd, memoryFile, pipe } from './fd.ts';
import { C, libc, SysError } from './libc.ts';
import { SIGKILL } from './signals.ts';

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
  /** The whole environment; nothing is inherited. */
  env: Readonly<Record<string, string>>;
  cwd?: string;
  /** Everything the program can read; /dev/null when left out. */
  stdin?: Uint8Array;
  /** The process group is killed after this many milliseconds. */
  timeoutMs: number;
  /** Bytes of stdout and of stderr that are kept, each; a program that prints more is killed. Default 4 MiB. */
  maxOutput?: number;
  /** A descriptor that the program inherits as its number 3; everything else of ours stays closed to it. */
  inherit?: number;
  /** Descriptors that the program inherits under their own numbers. */
  keep?: readonly number[];
  /** Hears the pid as soon as there is one, for those who need the process while it runs. */
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
  /** Printed more than `maxOutput`, and was killed for it. */
  overflowed: boolean;
  /** What posix_spawn itself took, in seconds: the time this thread was blocked. */
  spawnSeconds: number;
}

/**
 * Runs a program to its end without holding a thread: the output arrives through the event loop, the exit is collected with
 * waitpid once the pipes have closed. Throws {@link SysError} when it cannot be started (no such file, no permission).
 */
export async function run(options: SpawnOptions): Promise<SpawnResult> {
  const { maxOutput = 4 << 20 } = options;
  const [outRead, outWrite] = pipe();
  const [errRead, errWrite] = pipe();
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
  const kill = () => libc.kill(-pid, SIGKILL);
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
  const status = await ended(pid, Promise.all([out.done, err.done]));
  clearTimeout(timer);
  // A grandchild that outlives the program may hold the pipes open; what the program itself wrote is there by now.
  await Promise.race([Promise.all([out.done, err.done]), sleep(100)]);
  return {
    pid,
    code: (status & 0x7f) === 0 ? (status >> 8) & 0xff : null,
    signal: (status & 0x7f) === 0 ? null : status & 0x7f,
    stdout: out.take(),
    stderr: err.take(),
    timedOut,
    overflowed,
    spawnSeconds,
  };
}

type Startable = Pick<SpawnOptions, 'path' | 'argv' | 'env' | 'cwd' | 'inherit' | 'keep'>;

/** A program that goes on by itself: no time limit, and /dev/null where no descriptor is given. */
export interface LaunchOptions extends Pick<SpawnOptions, 'path' | 'argv' | 'env' | 'cwd' | 'inherit'> {
  stderr?: number;
}

/**
 * Starts a program and leaves it to itself, in a process group of its own. Whoever hears of its end collects it with {@link reap}; the
 * kernel gives it to init when the daemon ends first. Throws {@link SysError}.
 */
export function launch({ stderr, ...options }: LaunchOptions): { pid: number; spawnSeconds: number } {
  const began = performance.now();
  const pid = start(options, undefined, undefined, stderr);
  return { pid, spawnSeconds: (performance.now() - began) / 1000 };
}

/** Collects a child that has ended. False while it lives; true also for a pid that is no child of this process. */
export function reap(pid: number): boolean {
  return libc.waitpid(pid, [0], C.WNOHANG) !== 0;
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
    // A descriptor duplicated onto itself loses its close-on-exec flag, in the child alone (POSIX, glibc from 2.29 on).
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

/** Reads a pipe to its end through the event loop, keeping at most `max` bytes. */
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
  // A pipe can only fail to be read when its descriptor is bad, which the missing output then shows.
  socket.on('error', () => resolve());
  socket.on('close', () => resolve());
  return {
    done: promise,
    take: () => {
      // On a busy machine a timer may come before the event loop has looked at the pipe, which holds all there is by then.
      if (!socket.destroyed) for (const chunk of drain(fd)) keep(chunk);
      socket.destroy();
      return Buffer.concat(chunks);
    },
  };
}

/** What a pipe holds right now. The descriptor does not block: libuv has made it so. */
function* drain(fd: number): Generator<Buffer> {
  for (;;) {
    const chunk = Buffer.alloc(64 << 10);
    const length = Number(libc.read(fd, chunk, chunk.length));
    if (length <= 0) return;
    yield chunk.subarray(0, length);
  }
}

/**
 * The wait status of a child. Its pipes close a moment before it can be reaped, so the looks are close together then; a child
 * that closed its pipes early, or left them to a grandchild, is found by a slow look.
 */
async function ended(pid: number, pipesClosed: Promise<unknown>): Promise<number> {
  const status: [number] = [0];
  let closed = false;
  const closing = pipesClosed.then(() => {
    closed = true;
  });
  for (let look = 0; ; look++) {
    const got = libc.waitpid(pid, status, C.WNOHANG);
    if (got === pid) return status[0];
    if (got < 0) throw new SysError('waitpid', 10, `of pid ${pid}`); // ECHILD: somebody else reaped it
    if (!closed) {
      await Promise.race([closing, sleep(50)]);
      look = 0;
    } else if (look < 8) await new Promise(setImmediate);
    else await sleep(Math.min(look - 7, 20));
  }
}
