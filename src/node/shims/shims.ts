import { rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { explain, SluiceError } from '../../errors.ts';
import { isShimOf, listProcesses, type Process } from '../../workers/shim/processes.ts';
import type { ShimRow } from '../store/rows.ts';
import { DirectStartPolicy } from './direct-start-policy.ts';
import { ShimReaper } from './reaper.ts';
import { type OnCall, Task } from './task.ts';
import { TtrpcClient } from './ttrpc-client.ts';

/** A pod's shim with the connection to it. All containers of the pod are tasks of this one. */
export class Shim {
  readonly pod: string;
  readonly row: ShimRow;
  readonly task: Task;
  readonly connection: TtrpcClient;
  /** The end of the connection is our own doing. */
  closing = false;

  constructor(pod: string, row: ShimRow, connection: TtrpcClient, onCall?: OnCall) {
    this.pod = pod;
    this.row = row;
    this.connection = connection;
    this.task = new Task(connection, row.version, pod, onCall);
  }

  get open(): boolean {
    return this.connection.open;
  }
}

/**
 * What looking for a pod's shim came to. Only `dead` allows cleanupShim. `unknown` (it hangs, the node is overloaded) allows
 * nothing but another look: taking a live shim for a dead one has made two copies of a workload run (containerd 13784).
 */
export type Reattached = { state: 'alive'; shim: Shim } | { state: 'dead' } | { state: 'unknown'; reason: string };

export interface ShimCounts {
  /** Connected. */
  alive: number;
  /** The connection broke and nobody has cleaned up yet. */
  lost: number;
  /** Found neither alive nor dead. */
  unknown: number;
}

export interface ShimsOptions {
  /** A connection ended that nobody had asked to end: the shim died, as a rule. */
  onLost: (pod: string, row: ShimRow) => void;
  onCall?: OnCall;
}

/** A shim that was started just now. */
export interface StartedShim {
  /** The process, where it is a child of the daemon. */
  child?: number;
  timeoutMs?: number;
}

const CONNECT_MS = 5000;
/** How long a look at /proc waits for others that want one too. */
const GATHER_MS = 20;

/** The connections to the shims, one for each pod. */
export class Shims implements Disposable {
  readonly directStarts = new DirectStartPolicy();
  readonly #reaper = new ShimReaper();
  readonly #onLost: ShimsOptions['onLost'];
  readonly #onCall: OnCall | undefined;
  readonly #shims = new Map<string, Shim>();
  /** Looks under way: whoever asks for the same pod meanwhile gets the same connection. */
  readonly #looking = new Map<string, Promise<Reattached>>();
  readonly #trouble = new Map<string, 'lost' | 'unknown'>();
  #processes: Promise<Process[]> | undefined;

  constructor({ onLost, onCall }: ShimsOptions) {
    this.#onLost = onLost;
    this.#onCall = onCall;
  }

  /** The pod's shim, when it is connected. */
  get(pod: string): Shim | undefined {
    const shim = this.#shims.get(pod);
    return shim?.open ? shim : undefined;
  }

  get counts(): ShimCounts {
    const trouble = [...this.#trouble.values()];
    const lost = trouble.filter((state) => state === 'lost').length;
    return { alive: this.#shims.size, lost, unknown: trouble.length - lost };
  }

  /**
   * Connects to a shim that was just started and waits for its first answer, since the kernel takes connections for a process that
   * is not there yet, or deaf; one that is connected already is returned as it is. Throws SHIM_FAILED.
   */
  async connect(pod: string, row: ShimRow, { child, timeoutMs = CONNECT_MS }: StartedShim = {}): Promise<Shim> {
    const found = await this.#shared(pod, () => this.#look(pod, row, timeoutMs));
    if (found.state === 'alive') {
      if (child !== undefined) void found.shim.connection.closed.then(() => this.#reaper.reap(child));
      return found.shim;
    }
    if (child !== undefined) this.#reaper.reap(child);
    const why = found.state === 'dead' ? 'it is dead' : found.reason;
    throw new SluiceError('SHIM_FAILED', `the shim of pod ${pod} cannot be reached at ${row.address}: ${why}`);
  }

  /** Finds the shim of an earlier daemon again, within about `timeoutMs`. Never throws, never ends anything. */
  reattach(pod: string, row: ShimRow, timeoutMs = 2000): Promise<Reattached> {
    return this.#shared(pod, () => this.#look(pod, row, timeoutMs));
  }

  /**
   * Asks the shim to exit and waits until it has. Done already, or dead: fine. Throws TIMED_OUT when it is still there after
   * `timeoutMs`, which is also what a shim does that still holds a container; its connection then stays.
   */
  async shutdown(shim: Shim, timeoutMs = 5000): Promise<void> {
    const until = performance.now() + timeoutMs;
    shim.closing = true;
    try {
      await shim.task.shutdown(shim.pod, timeoutMs);
    } catch (error) {
      // A shim that exits before its answer is through has done what it was asked.
      if (shim.open) {
        shim.closing = false;
        throw error;
      }
    }
    const limit = new AbortController();
    const waited = sleep(Math.max(1, until - performance.now()), 'late', { signal: limit.signal }).catch(() => 'late');
    const outcome = await Promise.race([shim.connection.closed, waited]);
    limit.abort();
    if (outcome === 'late') {
      shim.closing = false;
      const message = `the shim of pod ${shim.pod} is still there ${timeoutMs} ms after Shutdown; it may hold a container`;
      throw new SluiceError('TIMED_OUT', message);
    }
    // It removes its socket itself, unless the bundle with its notes is gone before it came to that.
    await rm(shim.row.address, { force: true });
    this.forget(shim.pod);
  }

  /** Drops what is known of the pod's shim and closes the connection; the shim itself goes on. */
  forget(pod: string): void {
    const shim = this.#shims.get(pod);
    this.#shims.delete(pod);
    this.#trouble.delete(pod);
    if (!shim) return;
    shim.closing = true;
    shim.connection.close();
  }

  /** Closes all connections. The shims go on, and the next daemon finds them again. */
  [Symbol.dispose](): void {
    for (const pod of [...this.#shims.keys()]) this.forget(pod);
    this.#reaper[Symbol.dispose]();
  }

  #shared(pod: string, look: () => Promise<Reattached>): Promise<Reattached> {
    const shim = this.get(pod);
    if (shim) return Promise.resolve({ state: 'alive', shim });
    const running = this.#looking.get(pod);
    if (running) return running;
    const looking = look().finally(() => this.#looking.delete(pod));
    this.#looking.set(pod, looking);
    return looking;
  }

  async #look(pod: string, row: ShimRow, timeoutMs: number): Promise<Reattached> {
    const until = performance.now() + timeoutMs;
    let connection: TtrpcClient;
    try {
      connection = await TtrpcClient.connect(row.address, timeoutMs);
    } catch (error) {
      return this.#unreachable(pod, error, isRefusal(error));
    }
    const shim = new Shim(pod, row, connection, this.#onCall);
    try {
      await shim.task.connect(pod, Math.max(1, until - performance.now()));
    } catch (error) {
      const broke = !connection.open;
      connection.close();
      return this.#unreachable(pod, error, broke);
    }
    this.#adopt(shim);
    return { state: 'alive', shim };
  }

  #adopt(shim: Shim): void {
    const { pod, row } = shim;
    this.#shims.set(pod, shim);
    this.#trouble.delete(pod);
    void shim.connection.closed.then(() => {
      if (this.#shims.get(pod) === shim) this.#shims.delete(pod);
      if (shim.closing) return;
      this.#trouble.set(pod, 'lost');
      this.#onLost(pod, row);
    });
  }

  /** Nobody listens any more, or nobody answers. Only the former, and no process of this pod's shim left, is death. */
  async #unreachable(pod: string, cause: unknown, refused: boolean): Promise<Reattached> {
    let reason = explain(cause);
    if (refused) {
      try {
        const shim = (await this.#listProcesses()).find((process) => isShimOf(pod, process));
        if (!shim) {
          this.#trouble.set(pod, 'lost');
          return { state: 'dead' };
        }
        reason = `its process ${shim.pid} lives, but its socket is of no use: ${reason}`;
      } catch (error) {
        reason = `${reason}; /proc cannot be read: ${explain(error)}`;
      }
    }
    this.#trouble.set(pod, 'unknown');
    return { state: 'unknown', reason };
  }

  /** One look at /proc for all who ask before it begins: never one that is older than the question. */
  #listProcesses(): Promise<Process[]> {
    this.#processes ??= sleep(GATHER_MS).then(() => {
      this.#processes = undefined;
      return listProcesses();
    });
    return this.#processes;
  }
}

function isRefusal(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === 'ECONNREFUSED' || code === 'ENOENT';
}
