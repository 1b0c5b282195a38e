import { availableParallelism } from 'node:os';
import type { ResourceLimits, Transferable } from 'node:worker_threads';
import { Piscina } from 'piscina';
import { fromPlain, SluiceError } from '../../errors.ts';
import type { PoolName } from '../../stages.ts';
import { type Handlers, READY, type Reply } from '../../workers/serve.ts';
import { breath } from './breath.ts';
import { SMALL_HEAP } from './heaps.ts';

export interface PoolOptions {
  name: PoolName;
  /** Entry file of the worker. */
  file: URL;
  /** Threads: as many as the machine has cores, within these bounds. */
  minThreads: number;
  maxThreads: number;
  /** Calls that one thread works on at a time; above 1 only where the work waits for processes or sockets. */
  callsPerThread: number;
  /** Calls waiting for a thread; the stages' own limits keep it far below. */
  maxQueue: number;
  /** Milliseconds without a call after which the threads beyond `minThreads` end. Default {@link IDLE_MS}. */
  idleMs?: number;
  /** A thread failed while it had no call, or could not be started. It is replaced. */
  onError?: (error: Error) => void;
  /** Makes the plain data that each worker finds in `workerData`: called again whenever all threads are new. */
  workerData?: () => unknown;
  /** Default: a small one. */
  heap?: ResourceLimits;
}

/** A thread takes 10 MiB, and 25 ms until it works. */
const IDLE_MS = 3000;

/**
 * A pool of worker threads with typed calls. A call is never cancelled: piscina ends the thread of an aborted task, and
 * with it everything else that runs there. Piscina's defaults are wrong for a daemon (threads that die when idle, an
 * endless queue that puts the call at its head behind all others when no thread is free, a thread that sleeps in
 * Atomics.wait, where no event of an exiting child is handled), so every one of them is set here. Calls begin in their
 * order. Its own time limit for idle threads is off: a pool with calls now and then gives each of its pauses
 * a timer, and the oldest of them ends a thread that has just worked.
 */
export class Pool<T extends Handlers> implements AsyncDisposable {
  readonly name: PoolName;
  readonly #options: PoolOptions;
  /** Absent while a pool that needs no thread has none. */
  #piscina: Piscina | undefined;
  readonly #idle: NodeJS.Timeout;
  #running = 0;
  #restarts = 0;
  #closed = false;

  constructor(options: PoolOptions) {
    this.name = options.name;
    this.#options = options;
    if (options.minThreads > 0) this.#piscina = this.#start();
    this.#idle = setTimeout(() => void this.#rest(), options.idleMs ?? IDLE_MS).unref();
  }

  /**
   * Runs one of the worker's functions; the objects in `transferList` (ports in `input`) move to the worker. Rejects
   * with a {@link SluiceError}, also when the thread died under it.
   */
  async call<K extends keyof T & string>(
    op: K,
    input: Parameters<T[K]>[0],
    transferList?: Transferable[],
  ): Promise<Awaited<ReturnType<T[K]>>> {
    if (this.#closed) throw new SluiceError('SHUTTING_DOWN', `the ${this.name} workers have ended`);
    this.#running++;
    let reply: Reply;
    try {
      this.#piscina ??= this.#start();
      reply = await this.#piscina.run({ op, input }, { transferList });
    } catch (cause) {
      throw new SluiceError('INTERNAL', `the ${this.name} worker failed in ${op}`, { cause });
    } finally {
      this.#running--;
      if (this.#running === 0) this.#idle.refresh();
    }
    await breath();
    if (!reply.ok) throw fromPlain(reply.error);
    return reply.value as Awaited<ReturnType<T[K]>>;
  }

  /** What the metrics show: threads, calls at work or waiting, threads that had to be replaced. */
  get use(): { threads: number; running: number; queued: number; restarts: number } {
    const queued = this.#piscina?.queueSize ?? 0;
    const threads = this.#piscina?.threads.length ?? 0;
    return { threads, running: this.#running - queued, queued, restarts: this.#restarts };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#idle);
    await this.#piscina?.close({ force: true });
  }

  #start(): Piscina {
    const { file, minThreads, callsPerThread, maxQueue, heap = SMALL_HEAP, onError } = this.#options;
    const piscina = new Piscina({
      filename: file.href,
      minThreads,
      maxThreads: Math.max(minThreads, Math.min(this.#options.maxThreads, availableParallelism())),
      concurrentTasksPerWorker: callsPerThread,
      maxQueue,
      idleTimeout: Number.POSITIVE_INFINITY,
      atomics: 'disabled',
      recordTiming: false,
      stricterFIFO: true,
      workerData: this.#options.workerData?.(),
      resourceLimits: heap,
    });
    // Without a listener an `error` event ends the process.
    piscina.on('error', (error: Error) => onError?.(error));
    const before = this.#restarts;
    let created = 0;
    piscina.on('workerCreate', () => {
      created++;
      this.#restarts = Math.max(this.#restarts, before + created - piscina.threads.length);
    });
    return piscina;
  }

  /** Ends idle threads: all of them, or by putting as few as the pool may have in the place of the present ones. */
  async #rest(): Promise<void> {
    const old = this.#piscina;
    const { minThreads, onError } = this.#options;
    if (!old || this.#running > 0 || old.threads.length <= minThreads) return;
    let unused = old;
    try {
      if (minThreads === 0) this.#piscina = undefined;
      else {
        const fresh = this.#start();
        unused = fresh;
        await fresh.run({ op: READY, input: null }); // the next call must not wait for a thread to start
        if (this.#running === 0 && !this.#closed) {
          this.#piscina = fresh;
          unused = old;
        }
      }
    } catch (error) {
      onError?.(error as Error);
    } finally {
      await unused.close({ force: true });
    }
  }
}
