/**
 * Keeps containers' output while no daemon runs. The kernel discards a FIFO's contents when the last process closes it,
 * and a container that ends closes the shim's ends: its last output, which usually gives the reason, would be lost in a
 * restart of the daemon. So a process that only sleeps keeps the read ends open and outlives the daemon, also a killed
 * one. There is one for all containers. Descriptors of a further container are sent to it over a unix socket, in whose
 * queue they stay (it receives nothing); half a second later it is replaced by one that inherits those that are wanted
 * then.
 */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { explain } from '../../errors.ts';
import type { Fd } from '../../sys/fd.ts';
import { libc } from '../../sys/libc.ts';
import { procStat } from '../../sys/proc-stat.ts';
import { SIGKILL } from '../../sys/signals.ts';
import { run } from '../../sys/spawn.ts';
import { sendDescriptors, socketPair } from '../../sys/unix-socket.ts';

const EVERY_MS = 500;
/** By then all containers of the previous daemon have been recovered and are read by this one (milliseconds). */
export const INHERITED_MS = 60_000;
const SPAWN_MS = 10_000;
/**
 * The shell exits at once, so that init becomes the sleeper's parent and it outlives the daemon. The number is the
 * largest that every `sleep` accepts.
 */
const SCRIPT = 'sleep 2147483647 </dev/null >/dev/null 2>&1 & echo $!';

interface Sleeper {
  pid: number;
  /** Clock ticks since boot at which it started. A pid is reused, pid and start time together are not. */
  startTime: string;
}

/** A sleeper of this process, and the socket to it. */
interface Kept {
  sleeper: Sleeper;
  socket: Fd;
}

export interface KeeperOptions {
  /** Records the sleepers for the next daemon; its folder is their working directory. */
  file: string;
  /** The descriptors that are to be kept open. */
  descriptors: () => number[];
  onFailure: (message: string) => void;
}

export class Keeper {
  readonly #options: KeeperOptions;
  #inherited: Sleeper[];
  #own: Kept | undefined;
  /** Descriptors that were to be held since the last look at all of them. */
  #since: number[] = [];
  #timer: NodeJS.Timeout | undefined;
  #working: Promise<void> = Promise.resolve();

  constructor(options: KeeperOptions) {
    this.#options = options;
    this.#inherited = readSleepers(options.file);
    if (this.#inherited.length > 0) setTimeout(() => this.#killInherited(), INHERITED_MS).unref();
  }

  /** Processes that keep descriptors for an earlier daemon. */
  get inherited(): number[] {
    return this.#inherited.map(({ pid }) => pid);
  }

  /**
   * Resolves when these descriptors are kept, with all others that are wanted now. Before a container starts: its last
   * output may follow within milliseconds.
   */
  async hold(descriptors: number[]): Promise<void> {
    this.#since.push(...descriptors);
    try {
      if (this.#own && sendDescriptors(this.#own.socket, descriptors)) return this.changed();
    } catch (error) {
      this.#failed(error);
    }
    await this.flush();
  }

  /** To be called when there is a new descriptor, or when there are none left. */
  changed(): void {
    this.#timer ??= setTimeout(() => void this.flush(), EVERY_MS);
  }

  /**
   * Replaces the sleeper by one with the current descriptors. Never rejects: a failure only affects a restart of the
   * daemon, and `onFailure` gets it.
   */
  flush(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#working = this.#working.then(async () => {
      try {
        await this.#renew();
      } catch (error) {
        this.#failed(error);
      }
    });
    return this.#working;
  }

  #failed(error: unknown): void {
    this.#options.onFailure(`output of containers that end while no daemon runs will be lost: ${explain(error)}`);
  }

  async #renew(): Promise<void> {
    const { descriptors, file } = this.#options;
    const before = this.#own;
    const held = descriptors();
    this.#since = [];
    const own = held.length > 0 ? await startSleeper(dirname(file), held) : undefined;
    // What came meanwhile was sent to the sleeper that is to be killed.
    if (this.#since.length > 0 && !(own && sendDescriptors(own.socket, this.#since))) this.changed();
    this.#own = own;
    this.#write();
    if (before) {
      before.socket[Symbol.dispose]();
      kill(before.sleeper);
    }
  }

  #killInherited(): void {
    for (const sleeper of this.#inherited) kill(sleeper);
    this.#inherited = [];
    this.#write();
  }

  /** Kills all sleepers when there is nothing to keep, and otherwise makes sure that everything is kept. */
  async close(): Promise<void> {
    await this.flush();
    if (this.#options.descriptors().length === 0) this.#killInherited();
  }

  #write(): void {
    const { file } = this.#options;
    const all = [...this.#inherited, ...(this.#own ? [this.#own.sleeper] : [])];
    if (all.length === 0) rmSync(file, { force: true });
    else writeFileSync(file, all.map(({ pid, startTime }) => `${pid} ${startTime}\n`).join(''), { mode: 0o600 });
  }
}

async function startSleeper(cwd: string, inherit: number[]): Promise<Kept> {
  const [ours, theirs] = socketPair();
  using _theirs = theirs;
  using socket = ours;
  const env = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin' };
  const argv = ['sh', '-c', SCRIPT];
  const { code, stdout, stderr } = await run({
    path: '/bin/sh',
    argv,
    env,
    cwd,
    keep: [...inherit, theirs.number],
    timeoutMs: SPAWN_MS,
  });
  const pid = Number(stdout.toString());
  const startTime = startTimeOf(pid);
  if (code !== 0 || startTime === undefined) throw new Error(`sh: status ${code}: ${stderr.toString().trim()}`);
  return { sleeper: { pid, startTime }, socket: socket.move() };
}

function kill({ pid, startTime }: Sleeper): void {
  if (startTimeOf(pid) === startTime) libc.kill(pid, SIGKILL);
}

function readSleepers(file: string): Sleeper[] {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
  return [...text.matchAll(/^(\d+) (\d+)$/gm)]
    .map(([, pid, startTime = '']) => ({ pid: Number(pid), startTime }))
    .filter(({ pid, startTime }) => startTimeOf(pid) === startTime);
}

/** starttime, field 22 of proc_pid_stat(5); undefined when there is no such process. */
function startTimeOf(pid: number): string | undefined {
  if (!Number.isInteger(pid) || pid <= 1) return undefined;
  try {
    return procStat(`/proc/${pid}`)(22);
  } catch {
    return undefined; // the process is gone
  }
}
