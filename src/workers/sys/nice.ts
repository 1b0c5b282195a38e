import { getPriority } from 'node:os';
import { errno, libc } from './libc.ts';

const PRIO_PROCESS = 0;
/** Between the daemon's threads: how the worker learns what the process started with. */
const BASE = 'SLUICE_BASE_NICE';
/** Ahead of the runc and plugin processes of a burst, which all want the processor at once. */
const MAIN_NICE = -10;

/**
 * Puts the main thread, and it alone, ahead of the processes it starts: it uses a tenth of a core, but whoever asks it something
 * (kubelet's list, once a second) would wait behind dozens of runcs. On Linux a nice value is a thread's own. Returns why
 * it could not be done, which costs latency and nothing else.
 */
export function favourMain(): string | undefined {
  process.env[BASE] = String(getPriority());
  if (libc.setpriority(PRIO_PROCESS, 0, MAIN_NICE) === 0) return undefined;
  return `setpriority failed with errno ${errno()}`;
}

/** Takes a worker thread back to where the daemon started: it inherits main's place, and what it spawns would inherit its own. */
export function joinTheRest(): void {
  const base = Number(process.env[BASE]);
  if (Number.isInteger(base)) libc.setpriority(PRIO_PROCESS, 0, base);
}
