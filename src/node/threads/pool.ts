import { availableParallelism } from 'node:os';
import type { Transferable } from 'node:worker_threads';
import { Piscina } from 'piscina';
import { fromPlain, SluiceError } from '../../errors.ts';
import type { PoolName } from '../../stages.ts';
import type { Handlers, Reply } from '../../workers/serve.ts';

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
  /** A thread failed while it had no call, or could not be started. It is replaced. */
  onError?: (error: Error) => void;
  /** Plain data that each worker finds in `workerData`. */
  workerData?: unknown;
}

/**
 * A pool of worker threads with typed calls. A call is never cancelled: piscina ends the thread of an aborted task, and
 * with it everything else that runs there. Piscina's defaults are wrong for a daemon (threads that die when idle, an
 * endless queue, a thread that sleeps in Atomics.wait, where no event of an exiting child is handled), so every one of
 * them is set here.
 */
export class Pool<T extends Handlers> implements AsyncDisposable {
  readonly name: PoolName;
  readonly #piscina: Piscina;
  #running = 0;
  #restarts = 0;

  constructor(options: PoolOptions) {
    this.name = options.name;
    const maxThreads = Math.max(options.minThreads, Math.min(options.maxThreads, availableParallelism()));
    this.#piscina = new Piscina({
      filename: options.file.href,
      minThreads: options.minThreads,
      maxThreads,
      concurrentTasksPerWorker: options.callsPerThread,
      maxQueue: options.maxQueue,
      idleTimeout: 60_000,
      atomics: 'disabled',
      recordTiming: false,
      workerData: options.workerData,
    });
    // Without a listener an `error` event ends the process.
    this.#piscina.on('error', (error: Error) => options.onError?.(error));
    let created = 0;
    this.#piscina.on('workerCreate', () => {
      created++;
      this.#restarts = Math.max(0, created - this.#piscina.threads.length);
    });
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
    this.#running++;
    let reply: Reply;
    try {
      reply = await this.#piscina.run({ op, input }, { transferList });
    } catch (cause) {
      throw new SluiceError('INTERNAL', `the ${this.name} worker failed in ${op}`, { cause });
    } finally {
      this.#running--;
    }
    if (!reply.ok) throw fromPlain(reply.error);
    return reply.value as Awaited<ReturnType<T[K]>>;
  }

  /** What the metrics show: threads, calls at work or waiting, threads that had to be replaced. */
  get use(): { threads: number; running: number; queued: number; restarts: number } {
    const queued = this.#piscina.queueSize;
    return { threads: this.#piscina.threads.length, running: this.#running - queued, queued, restarts: this.#restarts };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#piscina.close({ force: true });
  }
}
