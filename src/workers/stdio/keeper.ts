/**
 * Holds what containers write while there is no daemon. A FIFO forgets its bytes when the last process closes it, and a container
 * that ends takes the shim's ends along: its last words, the ones that tell why, would be lost in a restart. So a process
 * that only sleeps has the read ends open too, and outlives the daemon, killed or not. One for all containers: it is
 * replaced, at most every half second, when there are new ones.
 */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { explain } from '../../errors.ts';
import { libc } from '../../sys/libc.ts';
import { SIGKILL } from '../../sys/signals.ts';
import { run } from '../../sys/spawn.ts';

const EVERY_MS = 500;
/** Until then all containers of the last daemon have been found again, and have a reader of ours. */
const INHERITED_MS = 60_000;
const SPAWN_MS = 10_000;
/** The shell ends at once, so that the sleeper is init's child and outlives us. As long as `sleep` can count anywhere. */
const SCRIPT = 'sleep 2147483647 </dev/null >/dev/null 2>&1 & echo $!';

interface Sleeper {
  pid: number;
  /** In clock ticks since boot: a pid is used again, both together are not. */
  startTime: string;
}

export interface KeeperOptions {
  /** Remembers the sleepers for the next daemon; its folder is their working directory. */
  file: string;
  /** All descriptors to keep, now. */
  descriptors: () => number[];
  onFailure: (message: string) => void;
}

export class Keeper {
  readonly #options: KeeperOptions;
  #inherited: Sleeper[];
  #own: Sleeper | undefined;
  #timer: NodeJS.Timeout | undefined;
  #working: Promise<void> = Promise.resolve();

  constructor(options: KeeperOptions) {
    this.#options = options;
    this.#inherited = readSleepers(options.file);
    if (this.#inherited.length > 0) setTimeout(() => this.#forgetInherited(), INHERITED_MS).unref();
  }

  /** There is a new descriptor to keep, or there are none any more. */
  changed(): void {
    this.#timer ??= setTimeout(() => void this.flush(), EVERY_MS);
  }

  /** Brings the sleeper up to date. Never rejects: without it all works but a restart. */
  flush(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#working = this.#working.then(async () => {
      try {
        await this.#renew();
      } catch (error) {
        this.#options.onFailure(`output of containers that end while no daemon runs will be lost: ${explain(error)}`);
      }
    });
    return this.#working;
  }

  async #renew(): Promise<void> {
    const { descriptors, file } = this.#options;
    const before = this.#own;
    const held = descriptors();
    this.#own = held.length > 0 ? await startSleeper(dirname(file), held) : undefined;
    this.#write();
    if (before) end(before);
  }

  #forgetInherited(): void {
    for (const sleeper of this.#inherited) end(sleeper);
    this.#inherited = [];
    this.#write();
  }

  /** Ends all sleepers when there is nothing to keep, else sees to it that everything is kept. */
  async close(): Promise<void> {
    await this.flush();
    if (this.#options.descriptors().length === 0) this.#forgetInherited();
  }

  #write(): void {
    const { file } = this.#options;
    const all = [...this.#inherited, ...(this.#own ? [this.#own] : [])];
    if (all.length === 0) rmSync(file, { force: true });
    else writeFileSync(file, all.map(({ pid, startTime }) => `${pid} ${startTime}\n`).join(''), { mode: 0o600 });
  }
}

async function startSleeper(cwd: string, inherit: number[]): Promise<Sleeper> {
  const env = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin' };
  const argv = ['sh', '-c', SCRIPT];
  const { code, stdout, stderr } = await run({ path: '/bin/sh', argv, env, cwd, keep: inherit, timeoutMs: SPAWN_MS });
  const pid = Number(stdout.toString());
  const startTime = startTimeOf(pid);
  if (code !== 0 || startTime === undefined) throw new Error(`sh: status ${code}: ${stderr.toString().trim()}`);
  return { pid, startTime };
}

function end({ pid, startTime }: Sleeper): void {
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

/** Field 22 of proc_pid_stat(5); undefined when there is no such process. */
function startTimeOf(pid: number): string | undefined {
  if (!Number.isInteger(pid) || pid <= 1) return undefined;
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
  } catch {
    return undefined; // gone
  }
}
