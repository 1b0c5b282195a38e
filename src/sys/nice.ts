import { readdirSync, readFileSync } from 'node:fs';
import { getPriority } from 'node:os';
import { join } from 'node:path';
import { errno, libc } from './libc.ts';

const PRIO_PROCESS = 0;
const ESRCH = 3;
/** Environment variable in which the main thread records the process's original nice value for the workers. */
const BASE = 'SLUICE_BASE_NICE';
/**
 * Above the runc and plugin processes of a burst, which compete for the processor. At -10 the main thread waited 3 ms
 * and more thirteen times a second while 32 pods were launched on two cores, at -20 five times.
 */
const MAIN_NICE = -20;

/**
 * Raises the priority of the main thread over the processes that the daemon starts: it uses a tenth of a core, and
 * kubelet's list calls would otherwise wait behind dozens of runc processes. V8's helper threads are raised too, since
 * main waits for their part of each garbage collection (pauses of 40 ms and more were measured when they queued for a
 * processor). On Linux a nice value belongs to a thread. Returns the reason when it fails; then only the latency
 * suffers.
 */
export function raiseMainPriority(): string | undefined {
  process.env[BASE] = String(getPriority());
  for (const thread of [0, ...v8Threads()]) {
    if (libc.setpriority(PRIO_PROCESS, thread, MAIN_NICE) === 0) continue;
    const failed = errno();
    if (failed !== ESRCH) return `setpriority failed with errno ${failed}`; // that one has ended
  }
  return undefined;
}

/**
 * V8's threads for garbage collection and compilation, shared by all isolates of the process. Node starts them before
 * it runs our code. `tasks` is the folder of a process's threads, of which one may end while it is looked at.
 */
export function v8Threads(tasks = '/proc/self/task'): number[] {
  return readdirSync(tasks)
    .filter((tid) => nameOf(join(tasks, tid)) === 'V8Worker')
    .map(Number);
}

function nameOf(task: string): string | undefined {
  try {
    return readFileSync(join(task, 'comm'), 'latin1').trim();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ESRCH') return undefined; // it has ended
    throw error;
  }
}

/**
 * Restores the nice value that the daemon started with, in a worker thread: the thread inherited main's value, and the
 * processes it spawns would inherit it too.
 */
export function restoreNice(): void {
  const base = Number(process.env[BASE]);
  if (Number.isInteger(base)) libc.setpriority(PRIO_PROCESS, 0, base);
}
