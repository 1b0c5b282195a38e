/**
 * Where a container's log is written: a file that this thread has open, or, on a mount that may hang, a process that
 * has it open.
 */
import { close, fstatSync, ftruncateSync, mkdirSync, open, write, writeSync } from 'node:fs';
import { Socket } from 'node:net';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { pipe } from '../../sys/fd.ts';
import type { MountPoint } from '../../sys/mountinfo.ts';
import { launch } from '../../sys/spawn.ts';
import { reap } from '../../sys/wait.ts';
import { HostMounts } from '../host-paths/host-mounts.ts';
import { makeRemoteFile } from '../host-paths/remote.ts';
import { resolve } from '../host-paths/resolve.ts';

const closeFile = promisify(close);
const openFile = promisify(open);

/**
 * The mount table is read again when it is older (milliseconds): hundreds of logs are opened together after a restart.
 */
const MOUNTS_MS = 1000;
const ENV = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin' };
/** Between two looks at a process whose end is waited for, in milliseconds; doubled up to the second. */
const FIRST_LOOK_MS = 5;
const LAST_LOOK_MS = 2000;

export interface LogTarget {
  /** Writes some of `lines` on this thread and returns how many bytes; absent where the thread might not come back. */
  writeNow?(lines: Buffer, at: number): number;
  /** The file's size in bytes when it was opened; undefined where asking for it might take for ever. */
  readonly size?: number;
  /** Writes some of `lines` without blocking this thread and resolves with how many bytes. */
  write(lines: Buffer, at: number): Promise<number>;
  /** Takes the last `bytes` back, half a line of a failed write, where that is possible. */
  takeBack(bytes: number): void;
  /** Resolves when everything written is in the file, or after `maxMs`. */
  sync(maxMs: number): Promise<void>;
  close(): Promise<void>;
}

let mounts: { table: HostMounts; readAt: number } | undefined;

/**
 * Opens a log for appending; makes it (0640) and the folders above it (0755). Throws the error of the file system, and
 * TIMED_OUT when its mount hangs.
 */
export async function openLogTarget(path: string): Promise<LogTarget> {
  const now = performance.now();
  if (!mounts || now - mounts.readAt > MOUNTS_MS) mounts = { table: new HostMounts(), readAt: now };
  const place = resolve(path, mounts.table);
  if (place.kind === 'remote') return RemoteLog.open(place.path, place.mount);
  makeFolder(dirname(path));
  return new LocalLog(await openFile(path, 'a', 0o640));
}

/**
 * mkdir's `recursive` is not used: Node loops forever where a parent exists but mkdir in it fails (/proc).
 */
function makeFolder(path: string): void {
  try {
    mkdirSync(path, 0o755);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST') return;
    if (code !== 'ENOENT' || dirname(path) === path) throw error;
    makeFolder(dirname(path));
    mkdirSync(path, 0o755);
  }
}

class LocalLog implements LogTarget {
  readonly #fd: number;
  readonly size: number;

  constructor(fd: number) {
    this.#fd = fd;
    this.size = fstatSync(fd).size;
  }

  writeNow(lines: Buffer, at: number): number {
    return writeSync(this.#fd, lines, at);
  }

  write(lines: Buffer, at: number): Promise<number> {
    return new Promise((resolve, reject) => {
      write(this.#fd, lines, at, lines.length - at, null, (error, count) => (error ? reject(error) : resolve(count)));
    });
  }

  takeBack(bytes: number): void {
    ftruncateSync(this.#fd, fstatSync(this.#fd).size - bytes);
  }

  async sync(): Promise<void> {}

  async close(): Promise<void> {
    await closeFile(this.#fd);
  }
}

/**
 * A log on a mount that may hang. `cat` has it open and copies to it from a pipe, so that neither this thread nor one
 * of libuv's ever waits for the mount: while it hangs the pipe is full, and only this container waits.
 */
class RemoteLog implements LogTarget {
  readonly #path: string;
  #copier: Copier | undefined;

  private constructor(path: string) {
    this.#path = path;
  }

  static async open(path: string, mount: MountPoint): Promise<RemoteLog> {
    await makeRemoteFile(path, mount);
    return new RemoteLog(path);
  }

  async write(lines: Buffer, at: number): Promise<number> {
    this.#copier ??= new Copier(this.#path);
    try {
      await this.#copier.write(lines.subarray(at));
    } catch (error) {
      // It could not write (ENOSPC, EIO) and has ended; the next write starts another one.
      void this.#copier.end();
      this.#copier = undefined;
      throw error;
    }
    return lines.length - at;
  }

  takeBack(): void {}

  async sync(maxMs: number): Promise<void> {
    const copier = this.#copier;
    this.#copier = undefined;
    if (copier) await Promise.race([copier.end(), sleep(maxMs, undefined, { ref: false })]);
  }

  async close(): Promise<void> {
    // What hangs is left to the copier, which writes it when the mount works again.
    await this.sync(0);
  }
}

/** A process that appends to a file what comes through a pipe. */
class Copier {
  readonly #pid: number;
  readonly #pipe: Socket;
  #ended: Promise<void> | undefined;

  constructor(path: string) {
    const [read, write] = pipe();
    using stdin = read;
    using ours = write;
    // The shell opens the file and not posix_spawn: its caller waits until the program runs.
    const argv = ['sh', '-c', 'exec cat >>"$1"', 'sh', path];
    this.#pid = launch({ path: '/bin/sh', argv, env: ENV, stdin: stdin.number }).pid;
    this.#pipe = new Socket({ fd: ours.release(), readable: false, writable: true });
    this.#pipe.on('error', () => {}); // the write's own callback has it
  }

  write(lines: Buffer): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#pipe.on('close', () => reject(new Error('the process that writes the log has ended')));
      this.#pipe.write(lines, (error) => {
        this.#pipe.removeAllListeners('close');
        if (error) reject(error);
        else resolve();
      });
    });
  }

  /** Resolves when the process has written everything and was collected. */
  end(): Promise<void> {
    this.#ended ??= this.#collect();
    return this.#ended;
  }

  async #collect(): Promise<void> {
    this.#pipe.end();
    for (let wait = FIRST_LOOK_MS; !(await reap(this.#pid)); wait = Math.min(wait * 2, LAST_LOOK_MS)) {
      await sleep(wait, undefined, { ref: false });
    }
  }
}
