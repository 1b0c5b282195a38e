import { setTimeout as sleep } from 'node:timers/promises';
import { explain, SluiceError } from '../../errors.ts';
import { removeFile } from '../../sys/folder.ts';
import { withTimeLimit } from '../../time-limit.ts';
import { isShimOf, listProcesses, type Process } from '../../workers/shim/processes.ts';
import type { ShimRow } from '../store/sandbox.ts';
import { DirectStartPolicy } from './direct-start-policy.ts';
import { ShimReaper } from './reaper.ts';
import { type OnCall, Task } from './task.ts';
import { TtrpcClient } from './ttrpc-client.ts';

/** A pod's shim and the connection to it. All containers of the pod are tasks of this shim. */
export class Shim {
  readonly pod: string;
  readonly row: ShimRow;
  readonly task: Task;
  readonly connection: TtrpcClient;
  /** True when the daemon closes the connection itself, so that its end is not a loss of the shim. */
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
 * The outcome of connecting to a pod's shim. Only `dead` allows cleanupShim. With `unknown` (the shim hangs, or the
 * node is overloaded) the caller may only try again: a live shim that was treated as dead has made two copies of a
 * workload run (containerd issue 13784).
 */
export type Reattached = { state: 'alive'; shim: Shim } | { state: 'dead' } | { state: 'unknown'; reason: string };

export interface ShimCounts {
  /** Shims with a connection. */
  alive: number;
  /** Shims whose connection has ended and that are not cleaned up yet. */
  lost: number;
  /** Shims that are neither reachable nor proven dead. */
  unknown: number;
}

export interface ShimsOptions {
  /** Called when a connection ends that the daemon did not close; in most cases the shim has died. */
  onLost: (pod: string, row: ShimRow) => void;
  onCall?: OnCall;
}

/** What the caller of {@link Shims.connect} has from starting the shim. */
export interface StartedShim {
  /** Pid of the shim, where it is a child of the daemon. */
  child?: number;
  timeoutMs?: number;
}

const CONNECT_MS = 5000;
/** Milliseconds in which a shim that works answers, also on a loaded node. */
const PROBE_MS = 10_000;
/** One scan of /proc serves all requests that arrive within this time. */
const GATHER_MS = 20;

/** The connections to the shims, one per pod. */
export class Shims implements Disposable {
  readonly directStarts = new DirectStartPolicy();
  readonly #reaper = new ShimReaper();
  readonly #onLost: ShimsOptions['onLost'];
  readonly #onCall: OnCall | undefined;
  readonly #shims = new Map<string, Shim>();
  /** Questions of {@link probe} that have no answer yet. */
  readonly #probes = new Map<Shim, Promise<void>>();
  /** Connection attempts in progress; a second caller for the same pod shares the attempt. */
  readonly #connecting = new Map<string, Promise<Reattached>>();
  readonly #trouble = new Map<string, 'lost' | 'unknown'>();
  #processes: Promise<Process[]> | undefined;

  constructor({ onLost, onCall }: ShimsOptions) {
    this.#onLost = onLost;
    this.#onCall = onCall;
  }

  /** The pod's shim; undefined when it is not connected. */
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
   * Connects to a shim that was just started and waits for its first response, because the kernel accepts connections
   * on a listening socket before the process runs. An existing connection is returned as it is. Throws SHIM_FAILED.
   */
  async connect(pod: string, row: ShimRow, { child, timeoutMs = CONNECT_MS }: StartedShim = {}): Promise<Shim> {
    const found = await this.#shareAttempt(pod, () => this.#tryConnect(pod, row, timeoutMs));
    if (found.state === 'alive') {
      if (child !== undefined) void found.shim.connection.closed.then(() => this.#reaper.reap(child));
      return found.shim;
    }
    if (child !== undefined) this.#reaper.reap(child);
    const why = found.state === 'dead' ? 'it is dead' : found.reason;
    throw new SluiceError('SHIM_FAILED', `the shim of pod ${pod} cannot be reached at ${row.address}: ${why}`);
  }

  /**
   * Connects to a shim that an earlier daemon has started, within about `timeoutMs`. Never throws and never kills a
   * process.
   */
  reattach(pod: string, row: ShimRow, timeoutMs = 2000): Promise<Reattached> {
    return this.#shareAttempt(pod, () => this.#tryConnect(pod, row, timeoutMs));
  }

  /**
   * Waits for any answer of a connected shim, so that a hung one (SIGSTOP, a frozen cgroup, a hung disk) is found
   * before a job asks it for work while it holds a place that others wait for. Callers at the same time share one
   * question. Throws SHIM_FAILED and TIMED_OUT.
   */
  async probe(shim: Shim): Promise<void> {
    let asked = this.#probes.get(shim);
    if (!asked) {
      asked = shim.task.connect(shim.pod, PROBE_MS).then(() => {});
      this.#probes.set(shim, asked);
      const forget = () => this.#probes.delete(shim);
      asked.then(forget, forget);
    }
    await asked;
  }

  /**
   * Asks the shim to exit and waits until it has exited; returns at once when it already has. Throws TIMED_OUT, and
   * keeps the connection, when the shim has not exited after `timeoutMs`, for example because it still has a container.
   */
  async shutdown(shim: Shim, timeoutMs = 5000): Promise<void> {
    const until = performance.now() + timeoutMs;
    shim.closing = true;
    try {
      await shim.task.shutdown(shim.pod, timeoutMs);
    } catch (error) {
      // A shim that exits before its response arrives has done what the call asks for.
      if (shim.open) {
        shim.closing = false;
        throw error;
      }
    }
    await withTimeLimit(shim.connection.closed, Math.max(1, until - performance.now()), () => {
      shim.closing = false;
      const what = `the shim of pod ${shim.pod} has not exited ${timeoutMs} ms after Shutdown`;
      throw new SluiceError('TIMED_OUT', `${what}; it may still have a container`);
    });
    // The shim removes its socket itself, unless the bundle, where it reads the socket's path, is removed first.
    await removeFile(shim.row.address);
    this.forget(shim.pod);
  }

  /** Closes the connection to the pod's shim and drops its state; the shim goes on. */
  forget(pod: string): void {
    const shim = this.#shims.get(pod);
    this.#shims.delete(pod);
    this.#trouble.delete(pod);
    if (!shim) return;
    shim.closing = true;
    shim.connection.close();
  }

  /** Closes all connections. The shims go on, and the next daemon reattaches to them. */
  [Symbol.dispose](): void {
    for (const pod of [...this.#shims.keys()]) this.forget(pod);
    this.#reaper[Symbol.dispose]();
  }

  #shareAttempt(pod: string, attempt: () => Promise<Reattached>): Promise<Reattached> {
    const shim = this.get(pod);
    if (shim) return Promise.resolve({ state: 'alive', shim });
    const running = this.#connecting.get(pod);
    if (running) return running;
    const connecting = attempt().finally(() => this.#connecting.delete(pod));
    this.#connecting.set(pod, connecting);
    return connecting;
  }

  async #tryConnect(pod: string, row: ShimRow, timeoutMs: number): Promise<Reattached> {
    const until = performance.now() + timeoutMs;
    let connection: TtrpcClient;
    try {
      connection = await TtrpcClient.connect(row.address, timeoutMs);
    } catch (error) {
      return this.#unreachable(pod, row, error, isRefusal(error));
    }
    const shim = new Shim(pod, row, connection, this.#onCall);
    try {
      await shim.task.connect(pod, Math.max(1, until - performance.now()));
    } catch (error) {
      const broke = !connection.open;
      connection.close();
      return this.#unreachable(pod, row, error, broke);
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

  /** Decides between `dead` (the socket refuses or breaks, and /proc shows no process of the shim) and `unknown`. */
  async #unreachable(pod: string, row: ShimRow, cause: unknown, refused: boolean): Promise<Reattached> {
    let reason = explain(cause);
    if (refused) {
      try {
        const shim = (await this.#listProcesses()).find((process) => isShimOf(row.leader ?? pod, process));
        if (!shim) {
          this.#trouble.set(pod, 'lost');
          return { state: 'dead' };
        }
        reason = `its process ${shim.pid} is alive, but it cannot be reached: ${reason}`;
      } catch (error) {
        reason = `${reason}; /proc cannot be read: ${explain(error)}`;
      }
    }
    this.#trouble.set(pod, 'unknown');
    return { state: 'unknown', reason };
  }

  /** Scans /proc once for all callers that arrive before the scan begins, so that no caller gets an older result. */
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
