/**
 * What a daemon that was killed has left running for its pods: CNI plugins, which go on in process groups of their own,
 * and the `start` and `delete` commands of shims. Whatever they make after an undo has run would stay for ever, so they
 * end first.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { killPinned } from '../../sys/pidfd.ts';
import { yielder } from '../yield.ts';

export interface AbandonedInput {
  /** Ids of the pods. */
  pods: readonly string[];
  /** Milliseconds that they get to end by themselves: a plugin that is nearly done leaves less to undo. */
  graceMs: number;
}

export interface Abandoned {
  /** Command lines of what ended by itself within the grace, and of what was killed. */
  ended: string[];
  killed: string[];
}

const PAUSE_MS = 20;
/** A process in uninterruptible sleep survives SIGKILL; nothing waits longer than this for it. */
const KILL_MS = 2000;

/** Waits for these processes, kills those that do not end in time, and resolves when none of them is there any more. */
export async function endAbandoned({ pods, graceMs }: AbandonedInput): Promise<Abandoned> {
  const ids = new Set(pods);
  const seen = new Map<number, string>();
  const killed = new Map<number, string>();
  const began = performance.now();
  for (;;) {
    const found = await findAbandoned(ids);
    if (found.size === 0) break;
    for (const [pid, command] of found) seen.set(pid, command);
    const late = performance.now() - began - graceMs;
    if (late >= KILL_MS) break;
    if (late >= 0) {
      for (const [pid, command] of found) {
        if (killPinned(pid, () => commandOf(pid, ids) !== undefined)) killed.set(pid, command);
      }
    }
    await sleep(PAUSE_MS);
  }
  const ended = [...seen].filter(([pid]) => !killed.has(pid)).map(([, command]) => command);
  return { ended, killed: [...killed.values()] };
}

/** One scan of /proc: command lines by pid. */
async function findAbandoned(ids: ReadonlySet<string>): Promise<Map<number, string>> {
  const found = new Map<number, string>();
  const yieldIfDue = yielder();
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    await yieldIfDue();
    const pid = Number(name);
    const command = commandOf(pid, ids);
    if (command !== undefined) found.set(pid, command);
  }
  return found;
}

/**
 * The command line of a process that works for one of the pods outside of any container; undefined for every other
 * process.
 */
function commandOf(pid: number, ids: ReadonlySet<string>): string | undefined {
  try {
    const argv = readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0').slice(0, -1);
    if (argv.length === 0) return undefined; // a kernel thread or a zombie
    if (!isShimCommand(argv, ids) && !isPlugin(readFileSync(`/proc/${pid}/environ`, 'latin1'), ids)) return undefined;
    // A container may have any command line and any environment, but never the daemon's mounts.
    return readlinkSync(`/proc/${pid}/ns/mnt`) === readlinkSync('/proc/self/ns/mnt') ? argv.join(' ') : undefined;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ESRCH' || code === 'EACCES') return undefined; // it has ended
    throw error;
  }
}

/** The long-lived shim of a pod has neither word. */
function isShimCommand(argv: readonly string[], ids: ReadonlySet<string>): boolean {
  const action = argv.at(-1);
  return (action === 'start' || action === 'delete') && argv.includes('-namespace') && ids.has(after(argv, '-id'));
}

/** A plugin, or a program that it runs (host-local, iptables): children inherit the environment. */
function isPlugin(environ: string, ids: ReadonlySet<string>): boolean {
  const id = /(?:^|\0)CNI_CONTAINERID=([^\0]*)/.exec(environ)?.[1];
  return id !== undefined && ids.has(id);
}

function after(argv: readonly string[], flag: string): string {
  return argv[argv.indexOf(flag) + 1] ?? '';
}
