/**
 * The scheduling policy of the daemon's main thread. A nice value, which main has too, counts among the threads of one
 * cgroup or session; between those the kernel shares the processors anew, and main waited 15 to 36 ms for one while
 * 2000 launches came (docs/develop/soundness.md). A real-time thread goes ahead of all that are none.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { watchCollections } from './collections.ts';
import { C, errno, libc } from './libc.ts';
import { procStat } from './proc-stat.ts';

/** The lowest of the real-time priorities: whatever else on the machine is real-time goes ahead of it. */
const PRIORITY = 1;

/** Seconds of running without one wait after which a thread is no real-time thread any more. */
const MAX_SECONDS = 3;
const TICKS_PER_SECOND = 100; // USER_HZ, which is part of the kernel's interface

/**
 * Makes a thread of this process a real-time one (SCHED_RR in sched(7)); the threads and processes that it starts begin
 * as normal ones. Returns the reason when that is refused.
 */
export function makeRealtime(tid: number): string | undefined {
  return setPolicy(tid, C.SCHED_RR | C.SCHED_RESET_ON_FORK, PRIORITY);
}

/**
 * Why this process should have no real-time thread, or undefined. A kernel that schedules real-time groups refuses one
 * below a cgroup v2 that has the cpu controller; where that is not enabled yet it would let one be, and then refuse to
 * enable the controller for all of its siblings, pods among them ("cgroup-v2", the cpu controller, in the kernel's
 * documentation). Where the controller is on, the kernel's own answer tells.
 */
export function whyNotRealtime(root = '/sys/fs/cgroup', own = '/proc/self/cgroup'): string | undefined {
  if (!existsSync(join(root, 'cgroup.controllers'))) return undefined; // cgroup v1
  const path = /^0::(.*)$/m.exec(readFileSync(own, 'utf8'))?.[1] ?? '/';
  const folder = join(root, path);
  if (!existsSync(join(folder, 'cgroup.type'))) return undefined; // the root cgroup
  if (existsSync(join(folder, 'cpu.weight'))) return undefined;
  return `its cgroup ${path} has no cpu controller, which could not be enabled later on some kernels`;
}

/** Makes it a normal one (SCHED_OTHER) again; its nice value is as it was. Returns the reason when that is refused. */
function makeNormal(tid: number): string | undefined {
  return setPolicy(tid, C.SCHED_OTHER | C.SCHED_RESET_ON_FORK, 0);
}

function setPolicy(tid: number, policy: number, priority: number): string | undefined {
  const parameters = Buffer.alloc(4);
  parameters.writeInt32LE(priority);
  if (libc.schedSetscheduler(tid, policy, parameters) === 0) return undefined;
  return `sched_setscheduler: ${libc.strerror(errno())}`;
}

/** Milliseconds; sweeping takes a few where every thread of it has a processor. */
const SWEEPING_MS = 50;

/**
 * Makes the calling thread, a real-time one, a normal one for a moment after each full collection of its garbage. V8
 * sweeps then, a part of it in a helper thread, and the event loop turns without a pause until that part is done, since
 * the task that waits for it is posted again each time. As a real-time thread it kept the helper from the processor
 * meanwhile, for 0.9 s where both processors had other work, and everything else as well. `onFailed` is told why the
 * kernel refuses.
 */
export function giveWayToSweepers(tid: number, onFailed: (reason: string) => void): Disposable {
  let timer: NodeJS.Timeout | undefined;
  const changed = (reason: string | undefined) => {
    if (reason !== undefined) onFailed(reason);
  };
  const watch = watchCollections((kind) => {
    if (kind !== 'major') return;
    clearTimeout(timer);
    changed(makeNormal(tid));
    timer = setTimeout(() => changed(makeRealtime(tid)), SWEEPING_MS).unref();
  });
  return {
    [Symbol.dispose]: () => {
      watch[Symbol.dispose]();
      clearTimeout(timer);
    },
  };
}

interface Seen {
  realtime: boolean;
  /** Seconds of CPU. */
  cpu: number;
  /** How often it has waited for something. */
  waits: number;
}

/** What the kernel says of a thread of this process. */
function seen(tid: number): Seen {
  const folder = `/proc/self/task/${tid}`;
  const field = procStat(folder);
  const waits = /^voluntary_ctxt_switches:\s*(\d+)/m.exec(readFileSync(`${folder}/status`, 'latin1'))?.[1];
  return {
    realtime: Number(field(41)) === C.SCHED_RR,
    cpu: (Number(field(14)) + Number(field(15))) / TICKS_PER_SECOND,
    waits: Number(waits),
  };
}

/**
 * Keeps a real-time thread from holding a processor: one that runs for {@link MAX_SECONDS} without waiting for anything
 * is a normal thread until it waits again. Beside it stands the kernel's own limit, which leaves others a twentieth
 * (kernel.sched_rt_runtime_us). {@link look} is called about once a second, from another thread.
 */
export class RealtimeGuard {
  readonly #tid: number;
  readonly #maxSeconds: number;
  readonly #onLowered: (seconds: number) => void;
  #since: Seen | undefined;

  /** `onLowered` is told the seconds of CPU that the thread used in one go. */
  constructor(tid: number, onLowered: (seconds: number) => void, maxSeconds = MAX_SECONDS) {
    this.#tid = tid;
    this.#onLowered = onLowered;
    this.#maxSeconds = maxSeconds;
  }

  /** Throws what reading /proc throws, and what the kernel says when it refuses a change of policy. */
  look(): void {
    const now = seen(this.#tid);
    const since = this.#since;
    if (!since || since.waits !== now.waits) {
      this.#since = now;
      if (since && !now.realtime) throwIf(makeRealtime(this.#tid));
      return;
    }
    const seconds = now.cpu - since.cpu;
    if (!now.realtime || seconds < this.#maxSeconds) return;
    throwIf(makeNormal(this.#tid));
    this.#onLowered(seconds);
  }
}

function throwIf(reason: string | undefined): void {
  if (reason !== undefined) throw new Error(reason);
}
