import { randomBytes } from 'node:crypto';
import { explain } from '../../errors.ts';
import type {
  AskOp,
  Captured,
  ExecBackend,
  ExecRef,
  ExecStart,
  Fifos,
  IoRegistration,
  ListenInput,
  Listening,
  ProcessRef,
  StdioEvent,
  StdioStats,
  StdioWorkerData,
  StreamRequest,
} from '../../workers/stdio/protocol.ts';
import type { handlers } from '../../workers/stdio.ts';
import { workerEntry } from '../threads/worker-entry.ts';
import { type Call, RestartingWorker } from './restarting-worker.ts';

/** Bytes kept of each of stdout and stderr, so that the response fits a gRPC message. The rest is read and dropped. */
const MAX_CAPTURE = 16 << 20;

/** An exec that has not started, and the FIFOs that are read for it. */
export interface Capture {
  execId: string;
  fifos: Fifos;
}

export interface StdioOptions {
  /** This daemon's folder for the FIFOs of execs, below the state folder. */
  execDir: string;
  /** Main is a real-time thread, over which the worker watches (src/sys/realtime.ts). */
  realtime?: boolean;
  backend: ExecBackend;
  /** Receives the worker's events, for the daemon's log. */
  onEvent(event: StdioEvent): void;
  /**
   * Called when the worker has ended unexpectedly; it is then restarted, and the IO of all containers is opened again.
   */
  onWorkerDied(error: Error): void;
  /** See RestartingWorker; for tests. */
  heartbeat?: { intervalMs: number; limitMs: number };
}

/**
 * Main's end of the stdio worker. It keeps the registrations of containers and of the streaming server, and repeats
 * them after a restart of the worker. A restart loses no log output, because the bytes wait in the FIFOs, but breaks
 * streaming connections.
 */
export class Stdio implements AsyncDisposable {
  readonly #options: StdioOptions;
  readonly #worker: RestartingWorker<typeof handlers>;
  readonly #registrations = new Map<string, IoRegistration>();
  /** Execs that the worker has started; they are killed when the worker ends. */
  readonly #execs = new Map<string, ExecRef>();
  /** For the next ExecSync; undefined when it could not be opened. */
  #spare: Promise<Capture | undefined> | undefined;
  #listening: (Listening & { input: ListenInput }) | undefined;

  constructor(options: StdioOptions) {
    this.#options = options;
    this.#worker = new RestartingWorker<typeof handlers>({
      file: workerEntry('stdio'),
      workerData: { execDir: options.execDir, realtime: options.realtime ?? false } satisfies StdioWorkerData,
      onAsk: (op, input) => this.#serve(op, input),
      onEvent: options.onEvent,
      heartbeat: options.heartbeat,
      onDied: (error) => {
        this.#spare = undefined;
        options.onWorkerDied(error);
        void this.#endOrphans();
      },
      restore: async (call) => {
        const all = [...this.#registrations.values()];
        const opened = Promise.allSettled(all.map((io) => call('openIo', io)));
        await this.#listenAgain(call);
        for (const [at, result] of (await opened).entries()) {
          const io = all[at];
          if (!io || result.status === 'fulfilled') continue;
          options.onEvent({ kind: 'log-failed', id: io.id, path: io.logPath, message: explain(result.reason) });
        }
      },
    });
  }

  get ready(): Promise<void> {
    return this.#worker.ready;
  }

  /** Counts for the metrics. */
  get use(): { restarts: number; running: number; containers: number } {
    return { restarts: this.#worker.restarts, running: this.#worker.running, containers: this.#registrations.size };
  }

  /**
   * Makes a container's FIFOs, opens them and its log, and starts copying. The caller does this before Task.Create, and
   * for each running container after a restart of the daemon, when the log continues with the bytes that wait in the
   * FIFOs. Idempotent.
   */
  async openIo(io: IoRegistration): Promise<void> {
    this.#registrations.set(io.id, io);
    try {
      await this.#worker.call('openIo', io);
    } catch (error) {
      this.#registrations.delete(io.id);
      throw error;
    }
  }

  /**
   * Resolves when the container's whole output is in its log. The caller does this after Task.Wait and before it
   * publishes the exit. `complete` is false when another process still has the output open after `maxMs` (default 10
   * s).
   */
  drain(id: string, limits: { quietMs?: number; maxMs?: number } = {}): Promise<{ complete: boolean }> {
    return this.#worker.call('drain', { id, ...limits });
  }

  /**
   * Continues the log in a new file at the same path (ReopenContainerLog). Throws NOT_READY when the container's IO is
   * not open.
   */
  reopenLog(id: string): Promise<void> {
    return this.#worker.call('reopenLog', { id });
  }

  /** Reads what is left in the FIFOs and closes them. Idempotent. */
  async closeIo(id: string): Promise<void> {
    this.#registrations.delete(id);
    await this.#worker.call('closeIo', { id });
  }

  /** Like {@link closeIo}, and removes the FIFOs and their folder. Idempotent; this undoes {@link openIo}. */
  async removeIo(io: { id: string; fifos: Fifos }): Promise<void> {
    this.#registrations.delete(io.id);
    await this.#worker.call('removeIo', { id: io.id, fifos: io.fifos });
  }

  /** Shrinks the heap of the worker's thread. */
  shrinkHeap(): Promise<void> {
    return this.#worker.call('shrinkHeap', null);
  }

  stats(): Promise<StdioStats> {
    return this.#worker.call('stats', null);
  }

  /**
   * The open FIFOs of an ExecSync, whose output is kept in memory: at most {@link MAX_CAPTURE} bytes of each stream.
   * One capture is always open for the next call, so that this takes no time.
   */
  async openCapture(): Promise<Capture> {
    const spare = this.#spare;
    this.#spare = undefined;
    return (await spare) ?? (await this.#makeCapture());
  }

  /**
   * Resolves with what the process of a capture has written, once everybody has closed it, or, after
   * {@link captureEnded}, when nothing came for a moment.
   */
  captureOutput(execId: string): Promise<Captured> {
    return this.#worker.call('captureOutput', { execId });
  }

  /** The process has ended: a child of it that still has its output open is not waited for. */
  captureEnded(execId: string): Promise<void> {
    return this.#worker.call('captureEnded', { execId });
  }

  /** Opens the capture for the next call. Nobody waits for it; when it fails, that call opens one, and says why not. */
  prepareCapture(): void {
    this.#spare ??= this.#makeCapture().catch(() => undefined);
  }

  /** Ends a capture without its output. */
  dropCapture(execId: string): Promise<void> {
    return this.#worker.call('dropCapture', { execId });
  }

  async #makeCapture(): Promise<Capture> {
    const execId = randomBytes(32).toString('hex');
    return { execId, fifos: await this.#worker.call('openCapture', { execId, maxBytes: MAX_CAPTURE }) };
  }

  /**
   * Starts the streaming server. After a restart of the worker it listens again, on the same port if that is still
   * free.
   */
  async listen(input: ListenInput): Promise<Listening> {
    const listening = await this.#worker.call('listen', input);
    this.#listening = { input, ...listening };
    return listening;
  }

  /** Issues a URL for one use within one minute. Throws QUEUE_FULL when a thousand URLs are unused. */
  async issue(request: StreamRequest): Promise<string> {
    const { path } = await this.#worker.call('issue', request);
    return (this.#listening?.url ?? '') + path;
  }

  /** Terminates the worker thread; it is started again as after a crash. */
  restart(): Promise<void> {
    return this.#worker.restart();
  }

  /** Flushes the logs and ends the worker. Containers go on: their output waits in the FIFOs for the next daemon. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.#worker.call('shutdown', null);
    } finally {
      await this.#worker[Symbol.asyncDispose]();
    }
  }

  /**
   * Starts the streaming server after a restart. A failure is only reported, so that container logs do not depend on
   * it.
   */
  async #listenAgain(call: Call<typeof handlers>): Promise<void> {
    if (!this.#listening) return;
    const { input, port } = this.#listening;
    const same = { ...input, address: input.address.replace(/\d+$/, String(port)) };
    for (const attempt of [same, input]) {
      try {
        this.#listening = { input, ...(await call('listen', attempt)) };
        return;
      } catch (error) {
        this.#options.onEvent({ kind: 'stream-failed', stream: 'exec', id: '', message: explain(error) });
      }
    }
  }

  async #serve(op: AskOp, input: unknown): Promise<unknown> {
    const { backend } = this.#options;
    switch (op) {
      case 'startExec': {
        const start = input as ExecStart;
        const { containerId, execId } = start;
        this.#execs.set(execId, { containerId, execId });
        try {
          return await backend.startExec(start);
        } catch (error) {
          this.#execs.delete(execId);
          throw error;
        }
      }
      case 'endExec': {
        const exec = input as ExecRef;
        this.#execs.delete(exec.execId);
        return backend.endExec(exec);
      }
      case 'waitExec':
        return backend.waitExec(input as ExecRef);
      case 'killExec':
        return backend.killExec(input as ExecRef);
      case 'resize':
        return backend.resize(input as ProcessRef & { width: number; height: number });
      case 'closeStdin':
        return backend.closeStdin(input as ProcessRef);
    }
  }

  /** Kills the execs of a worker that has ended: their output has no reader, so they would block on a full pipe. */
  async #endOrphans(): Promise<void> {
    const { backend, onEvent } = this.#options;
    const orphans = [...this.#execs.values()];
    this.#execs.clear();
    await Promise.all(
      orphans.map(async (exec) => {
        try {
          await backend.killExec(exec);
          await backend.waitExec(exec);
          await backend.endExec(exec);
        } catch (error) {
          const message = `exec ${exec.execId} could not be ended after the stdio worker died: ${explain(error)}`;
          onEvent({ kind: 'stream-failed', stream: 'exec', id: exec.containerId, message });
        }
      }),
    );
  }
}
