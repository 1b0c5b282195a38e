import { readdirSync, readFileSync } from 'node:fs';
import { getPriority } from 'node:os';
import { errno, libc } from './libc.ts';

const PRIO_PROCESS = 0;
/** Between the daemon's threads: how the worker learns what the process started with. */
const BASE = 'SLUICE_BASE_NICE';
/**
 * Ahead of the runc and plugin processes of a burst, which all want the processor at once. At -10 the thread still had to wait for
 * 3 ms and more thirteen times a second while 32 pods were launched on two cores, at -20 five times.
 */
const MAIN_NICE = -20;

/**
 * Puts the main thread ahead of the processes it starts: it uses a tenth of a core, but whoever asks it something (kubelet's
 * list, once a second) would wait behind dozens of runcs. V8's own threads come along: main waits for their share of each
 * garbage collection, and collections of 40 ms and more were seen (in a client on the same node) when they queued for a processor. On Linux a nice value is a
 * thread's own. Returns why it could not be done, which costs latency and nothing else.
 */
export function favourMain(): string | undefined {
  process.env[BASE] = String(getPriority());
  for (const thread of [0, ...v8Threads()]) {
    if (libc.setpriority(PRIO_PROCESS, thread, MAIN_NICE) !== 0) return `setpriority failed with errno ${errno()}`;
  }
  return undefined;
}

/** The threads on which V8 collects garbage and compiles, for all isolates of the process; Node starts them before any of our code. */
function v8Threads(): number[] {
  const tasks = '/proc/self/task';
  return readdirSync(tasks)
    .filter((tid) => readFileSync(`${tasks}/${tid}/comm`, 'latin1').trim() === 'V8Worker')
    .map(Number);
}

/** Takes a worker thread back to where the daemon started: it inherits main's place, and what it spawns would inherit its own. */
export function joinTheRest(): void {
  const base = Number(process.env[BASE]);
  if (Number.isInteger(base)) libc.setpriority(PRIO_PROCESS, 0, base);
}
