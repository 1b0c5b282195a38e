/** The ends of programs that were started here (spawn.ts). */
import { setTimeout as sleep } from 'node:timers/promises';
import { isMainThread } from 'node:worker_threads';
import { C, libc, SysError } from './libc.ts';

/**
 * How long a killed process may take to end, in milliseconds. SIGKILL takes effect when a process leaves
 * uninterruptible sleep, which with a hung NFS or FUSE mount may be never.
 */
const KILLED_MS = 5000;
/** Milliseconds between two looks at an abandoned process. */
const ABANDONED_POLL_MS = 2000;

/** Programs that run() has given up and that have not ended yet, by pid. Each is collected when it ends. */
export const abandoned: ReadonlyMap<number, string> = new Map();

/**
 * Collects a child's exit status. False while the child runs; true also for a pid that is not a child of this process.
 */
export async function reap(pid: number): Promise<boolean> {
  return (await collectStatus(pid, [0])) !== 0;
}

/**
 * waitpid(2) with WNOHANG: the pid, 0 while the child runs, or less than 0. Main has it done by a thread of libuv's
 * pool: collecting a process also drops what /proc has cached about it, and the kernel runs in circles for as long as
 * another process holds a part of that. Main, as a real-time thread, kept that other one from its processor, and was
 * seen in one such call for 0.9 s.
 */
function collectStatus(pid: number, status: [number]): number | Promise<number> {
  if (!isMainThread) return libc.waitpid(pid, status, C.WNOHANG);
  return new Promise((resolve, reject) => {
    libc.waitpid.async(pid, status, C.WNOHANG, (error: unknown, result: number) =>
      error ? reject(error) : resolve(result),
    );
  });
}

/** The wait status; undefined when the process has not ended {@link KILLED_MS} after it was killed. */
export async function waitOrAbandon(
  pid: number,
  path: string,
  pipesClosed: Promise<unknown>,
  killed: Promise<void>,
): Promise<number | undefined> {
  let ended = false;
  const status = waitStatus(pid, pipesClosed).finally(() => {
    ended = true;
  });
  const { promise: givenUp, resolve: giveUp } = Promise.withResolvers<undefined>();
  let timer: NodeJS.Timeout | undefined;
  void killed.then(() => {
    if (!ended) timer = setTimeout(giveUp, KILLED_MS, undefined);
  });
  const outcome = await Promise.race([status, givenUp]);
  clearTimeout(timer);
  if (outcome === undefined) abandon(pid, path);
  return outcome;
}

function abandon(pid: number, path: string): void {
  (abandoned as Map<number, string>).set(pid, path);
  const looks = setInterval(async () => {
    await collectAbandoned(pid);
    if (!abandoned.has(pid)) clearInterval(looks);
  }, ABANDONED_POLL_MS);
  looks.unref();
}

/**
 * Collects a program that run() has given up, if it has ended by now: until then it counts as a process that lives.
 * Does nothing for other pids.
 */
export async function collectAbandoned(pid: number): Promise<void> {
  if (abandoned.has(pid) && (await reap(pid))) (abandoned as Map<number, string>).delete(pid);
}

/**
 * Waits for a child's wait status; undefined once the child has been abandoned. A child can be reaped a moment after
 * its pipes close, so the polls are close together then; a child that closed its pipes early, or left them to a
 * grandchild, is found by a poll every 50 ms.
 */
async function waitStatus(pid: number, pipesClosed: Promise<unknown>): Promise<number | undefined> {
  const status: [number] = [0];
  let closed = false;
  const closing = pipesClosed.then(() => {
    closed = true;
  });
  for (let look = 0; ; look++) {
    if (abandoned.has(pid)) return undefined;
    const got = await collectStatus(pid, status);
    if (got === pid) return status[0];
    if (got < 0) throw new SysError('waitpid', 10, `of pid ${pid}`); // ECHILD: something else has reaped it
    if (!closed) {
      await Promise.race([closing, sleep(50)]);
      look = 0;
    } else if (look < 8) await new Promise(setImmediate);
    else await sleep(Math.min(look - 7, 20));
  }
}
