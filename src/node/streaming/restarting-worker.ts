import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { fromPlain, SluiceError, toPlain } from '../../errors.ts';
import type { Handlers } from '../../workers/serve.ts';
import type { AskOp, FromWorker, StdioEvent, ToWorker } from '../../workers/stdio/protocol.ts';
import { SMALL_HEAP } from '../threads/heaps.ts';
import { Heartbeat } from './heartbeat.ts';

/** Pause before a restart. It doubles up to the maximum while workers end within {@link STABLE_MS} of their start. */
const FIRST_DELAY_MS = 50;
const MAX_DELAY_MS = 10_000;
/** The end of a worker that ran for so long resets the pause. */
const STABLE_MS = 30_000;
/** A worker that does not answer a ping for so long is terminated and replaced. */
const HEARTBEAT = { intervalMs: 10_000, limitMs: 60_000 };

export interface RestartingWorkerOptions<T extends Handlers> {
  /** Entry file of the worker. */
  file: URL;
  workerData: unknown;
  /** Serves calls from the worker. */
  onAsk(op: AskOp, input: unknown): Promise<unknown>;
  onEvent(event: StdioEvent): void;
  /** Called when the worker has ended unexpectedly; it is then restarted. */
  onDied(error: Error): void;
  /** Runs after each start of the worker, before any other call is sent. */
  restore(call: Call<T>): Promise<void>;
  /** Milliseconds between pings, and for an answer; 10 s and 60 s when left out. */
  heartbeat?: { intervalMs: number; limitMs: number };
}

type Result<T extends Handlers, K extends keyof T> = Promise<Awaited<ReturnType<T[K]>>>;
export type Call<T extends Handlers> = <K extends keyof T & string>(op: K, input: Parameters<T[K]>[0]) => Result<T, K>;

interface Waiting {
  op: string;
  resolve(value: unknown): void;
  reject(error: Error): void;
}

/**
 * One worker thread with typed calls in both directions that is started again when it ends. It is not a pool, because
 * the thread has state (open FIFOs, connections): calls must reach this thread, and a restart must restore the state.
 */
export class RestartingWorker<T extends Handlers> implements AsyncDisposable {
  readonly #options: RestartingWorkerOptions<T>;
  #worker: Worker | undefined;
  #waiting = new Map<number, Waiting>();
  #calls = 0;
  #restarts = 0;
  #delay = FIRST_DELAY_MS;
  #closed = false;
  /** Resolves when the present worker accepts calls; rejects when it ends before that. */
  #usable: Promise<void>;

  constructor(options: RestartingWorkerOptions<T>) {
    this.#options = options;
    this.#usable = this.#start();
  }

  /** Resolves when the worker accepts calls; rejects when it could not start. */
  get ready(): Promise<void> {
    return this.#usable;
  }

  get restarts(): number {
    return this.#restarts;
  }

  /** Number of calls in flight. */
  get running(): number {
    return this.#waiting.size;
  }

  /**
   * Calls a function of the worker, after a restart that is in progress. Rejects with a {@link SluiceError}, also when
   * the worker ends during the call.
   */
  async call<K extends keyof T & string>(op: K, input: Parameters<T[K]>[0]): Result<T, K> {
    if (this.#closed) throw new SluiceError('SHUTTING_DOWN', 'the stdio worker has been shut down');
    await this.#usable;
    return await this.#send(op, input);
  }

  /** Terminates the thread, which is then started again; resolves when it accepts calls. */
  async restart(): Promise<void> {
    await this.#worker?.terminate();
    await this.#usable;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#worker?.terminate();
  }

  #send<K extends keyof T & string>(op: K, input: Parameters<T[K]>[0]): Result<T, K> {
    const worker = this.#worker;
    if (!worker) throw new SluiceError('INTERNAL', `the stdio worker died before ${op} could be called`);
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    const id = ++this.#calls;
    this.#waiting.set(id, { op, resolve, reject });
    worker.postMessage({ kind: 'call', id, op, input } satisfies ToWorker);
    return promise as Result<T, K>;
  }

  #start(): Promise<void> {
    const began = performance.now();
    const { file, workerData } = this.#options;
    const worker = new Worker(file, { workerData, name: 'stdio', resourceLimits: SMALL_HEAP });
    this.#worker = worker;
    let cause: unknown;
    const times = this.#options.heartbeat ?? HEARTBEAT;
    const heartbeat = new Heartbeat({
      ...times,
      ping: () => worker.postMessage({ kind: 'ping' } satisfies ToWorker),
      onSilent: () => {
        cause = new Error(`it did not answer a ping for ${times.limitMs / 1000} s`);
        void worker.terminate();
      },
    });
    const { promise: ready, resolve, reject } = Promise.withResolvers<void>();
    worker.on('message', (message: FromWorker) => {
      heartbeat.answered();
      if (message.kind === 'ready') resolve();
      else if (message.kind === 'event') this.#options.onEvent(message.event);
      else if (message.kind === 'ask') void this.#serve(worker, message);
      else if (message.kind === 'reply') this.#settle(message);
    });
    worker.on('error', (error) => {
      cause = error;
    });
    worker.on('exit', (code) => {
      heartbeat[Symbol.dispose]();
      const error = new SluiceError('INTERNAL', `the stdio worker ended (code ${code})`, { cause });
      reject(error);
      this.#died(worker, error, performance.now() - began);
    });
    const usable = ready.then(() => this.#options.restore((op, input) => this.#send(op, input)));
    // Without a call in progress no caller awaits this promise; onDied reports the failure.
    usable.catch(() => {});
    return usable;
  }

  #died(worker: Worker, error: SluiceError, livedMs: number): void {
    if (this.#worker !== worker) return;
    this.#worker = undefined;
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const call of waiting) {
      call.reject(new SluiceError('INTERNAL', `the stdio worker died during ${call.op}`, { cause: error }));
    }
    if (this.#closed) return;
    this.#options.onDied(error);
    this.#delay = livedMs > STABLE_MS ? FIRST_DELAY_MS : Math.min(this.#delay * 2, MAX_DELAY_MS);
    this.#usable = sleep(this.#delay).then(() => {
      if (this.#closed) throw new SluiceError('SHUTTING_DOWN', 'the stdio worker has been shut down');
      this.#restarts++;
      return this.#start();
    });
    this.#usable.catch(() => {});
  }

  #settle({ id, reply }: Extract<FromWorker, { kind: 'reply' }>): void {
    const call = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (reply.ok) call?.resolve(reply.value);
    else call?.reject(fromPlain(reply.error));
  }

  async #serve(worker: Worker, { id, op, input }: Extract<FromWorker, { kind: 'ask' }>): Promise<void> {
    let answer: ToWorker;
    try {
      answer = { kind: 'answer', id, ok: true, value: await this.#options.onAsk(op, input) };
    } catch (error) {
      answer = { kind: 'answer', id, ok: false, error: toPlain(error) };
    }
    // postMessage to a worker that has ended is a no-op, and nobody waits for this answer.
    worker.postMessage(answer);
  }
}
