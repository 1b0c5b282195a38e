/** Processes of the rig: started with their output in a file, found again in /proc, ended by pid and never by name. */
import { execFile, spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { closeSync, openSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { procStat } from '../../src/sys/proc-stat.ts';

export interface Output {
  code: number;
  stdout: string;
  stderr: string;
}

/**
 * Runs a program to its end; a status other than 0 is an error unless `check` is false. `follow` is given what it
 * writes to standard output as it comes.
 */
export function run(
  path: string,
  args: readonly string[],
  options: {
    cwd?: string;
    env?: NodeJS.ProcessEnv;
    check?: boolean;
    timeoutMs?: number;
    input?: string;
    follow?: (text: string) => void;
  } = {},
): Promise<Output> {
  return new Promise((resolve, reject) => {
    const child = execFile(
      path,
      [...args],
      { cwd: options.cwd, env: options.env, timeout: options.timeoutMs ?? 600_000, maxBuffer: 256 << 20 },
      (error, stdout, stderr) => {
        const code = error ? (typeof error.code === 'number' ? error.code : -1) : 0;
        if (error && (options.check !== false || code === -1)) {
          const words = (stderr.trim() || stdout.trim() || error.message).slice(-4000);
          reject(new Error(`${path} ${args.join(' ')}: status ${code}: ${words}`, { cause: error }));
        } else resolve({ code, stdout, stderr });
      },
    );
    if (options.follow) child.stdout?.on('data', options.follow);
    // A program that ends without reading its input is no error here.
    child.stdin?.on('error', () => {});
    child.stdin?.end(options.input ?? '');
  });
}

export interface Started {
  readonly pid: number;
  /** Status, or the name of the signal, once it has ended. */
  readonly ended: Promise<number | string>;
  /** True while it runs. */
  running(): boolean;
  /** What it has printed so far. */
  log(): string;
  /** SIGTERM, and SIGKILL when that did not help in time; resolves with how it ended. */
  stop(graceMs?: number): Promise<number | string>;
}

/**
 * Starts a server whose output goes to `logPath`. It shares no process group with us, so that Ctrl-C ends it through
 * `stop`. `inherit` is a descriptor of ours that it gets as its number 3.
 */
export function start(
  path: string,
  args: readonly string[],
  logPath: string,
  env?: NodeJS.ProcessEnv,
  inherit?: number,
): Started {
  const out = openSync(logPath, 'a');
  const stdio = ['ignore', out, out, ...(inherit === undefined ? [] : [inherit])] as const;
  const child = spawn(path, [...args], { stdio: [...stdio], env, detached: true });
  closeSync(out);
  let over = false;
  const ended = new Promise<number | string>((resolve) => {
    child.once('error', (error) => {
      over = true;
      resolve(error.message);
    });
    child.once('exit', (code, signal) => {
      over = true;
      resolve(code ?? signal ?? 'lost');
    });
  });
  return {
    pid: child.pid ?? 0,
    ended,
    running: () => !over,
    log: () => readFileSync(logPath, 'utf8'),
    async stop(graceMs = 30_000) {
      if (!over) child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), graceMs);
      const how = await ended;
      clearTimeout(timer);
      return how;
    },
  };
}

/** What waitFor waits for will never come. */
export class GivenUp extends Error {}

/**
 * Asks again every few milliseconds until `look` gives something; errors other than {@link GivenUp} count as "not yet".
 */
export async function waitFor<T>(what: string, timeoutMs: number, look: () => Promise<T | undefined> | T | undefined) {
  const end = Date.now() + timeoutMs;
  let last: unknown;
  for (let pause = 5; ; pause = Math.min(pause * 1.5, 200)) {
    try {
      const got = await look();
      if (got !== undefined && got !== false) return got;
    } catch (error) {
      if (error instanceof GivenUp) throw error;
      last = error;
    }
    if (Date.now() > end) throw new Error(`waited ${timeoutMs} ms for ${what}`, { cause: last });
    await sleep(pause);
  }
}

/**
 * A TCP port on loopback that nobody listened on a moment ago. It is none of those that the kernel gives to whoever
 * asks for any port (32768 to 60999): between the kill of a daemon and its restart another one could be given it.
 */
export async function freePort(): Promise<number> {
  for (let attempt = 0; attempt < 100; attempt++) {
    const port = randomInt(12_000, 30_000);
    if (await canListen(port)) return port;
  }
  throw new Error('no port of loopback from 12000 to 29999 can be listened on');
}

function canListen(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
}

/** Whether something accepts connections on a loopback port. */
export function portOpen(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}

export interface Process {
  pid: number;
  parent: number;
  command: string;
  cwd: string;
  /** "Z" is a zombie. */
  state: string;
  /** User and system time of it, in clock ticks (100 per second on Linux). */
  ticks: number;
  /** Of its ended and waited-for children. */
  childTicks: number;
}

/** All processes that can be read; one that ends meanwhile is left out. */
export function processes(): Process[] {
  const all: Process[] = [];
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      const field = procStat(`/proc/${entry}`);
      let cwd = '';
      try {
        cwd = readlinkSync(`/proc/${entry}/cwd`);
      } catch {
        // a zombie has none
      }
      all.push({
        pid: Number(entry),
        parent: Number(field(4)),
        command: readFileSync(`/proc/${entry}/cmdline`, 'utf8').replaceAll('\0', ' ').trim(),
        cwd,
        state: field(3),
        ticks: Number(field(14)) + Number(field(15)),
        childTicks: Number(field(16)) + Number(field(17)),
      });
    } catch {
      // ended between the listing and the look
    }
  }
  return all;
}

/** Processes that stand in, or name, the folder: a daemon's own, and its shims (their bundle is below it). */
export function processesOf(folder: string): Process[] {
  return processes().filter(
    (p) => p.pid !== process.pid && (p.cwd.startsWith(folder) || p.command.includes(`${folder}/`)),
  );
}

/**
 * SIGSTOP, and waits until every thread has stopped: kill(2) returns before, and a thread on another processor may
 * still answer. SIGCONT lets it go on.
 */
export async function stopThreads(pid: number): Promise<void> {
  process.kill(pid, 'SIGSTOP');
  await waitFor(`process ${pid} to stand still`, 10_000, () => {
    const threads = readdirSync(`/proc/${pid}/task`);
    return threads.every((tid) => procStat(`/proc/${pid}/task/${tid}`)(3) === 'T') || undefined;
  });
}

/** CPU seconds that a process and, unless told otherwise, its reaped children have used. */
export function cpuSeconds(pid: number, { children = true } = {}): number {
  const field = procStat(`/proc/${pid}`);
  const [user = 0, system = 0, childUser = 0, childSystem = 0] = [14, 15, 16, 17].map((number) =>
    Number(field(number)),
  );
  return (user + system + (children ? childUser + childSystem : 0)) / 100;
}

/** CPU seconds that the whole machine has been busy since boot. */
export function machineCpuSeconds(): number {
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] = readFileSync('/proc/stat', 'latin1')
    .slice(5)
    .split('\n', 1)[0]
    ?.trim()
    .split(/\s+/)
    .map(Number) ?? [0];
  return (user + nice + system + irq + softirq) / 100;
}

/** Proportional set size of a process, in bytes. */
export function pss(pid: number): number {
  const match = /^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'latin1'));
  return Number(match?.[1] ?? 0) * 1024;
}
