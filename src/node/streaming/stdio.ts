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
import { type Call, WorkerLink } from './link.ts';

export interface StdioOptions {
  /** Folder of this daemon for the FIFOs of execs; below the state folder. */
  execDir: string;
  backend: ExecBackend;
  /** For the daemon's log. */
  onEvent(event: StdioEvent): void;
  /** The worker died; it is restarted, and all containers' IO opened again. */
  onWorkerDied(error: Error): void;
}

/**
 * The stdio worker as main sees it. Remembers what the worker must know, and tells it again when it had to be restarted: containers
 * go on logging without a loss (the bytes wait in the FIFOs), streaming connections break.
 */
export class Stdio implements AsyncDisposable {
  readonly #options: StdioOptions;
  readonly #link: WorkerLink<typeof handlers>;
  readonly #registrations = new Map<string, IoRegistration>();
  /** Execs that the worker has started: their processes end with it. */
  readonly #execs = new Map<string, ExecRef>();
  #listening: (Listening & { input: ListenInput }) | undefined;

  constructor(options: StdioOptions) {
    this.#options = options;
    this.#link = new WorkerLink<typeof handlers>({
      file: workerEntry('stdio'),
      workerData: { execDir: options.execDir } satisfies StdioWorkerData,
      onAsk: (op, input) => this.#answer(op, input),
      onEvent: options.onEvent,
      onDied: (error) => {
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
    return this.#link.ready;
  }

  /** For the metrics. */
  get use(): { restarts: number; running: number; containers: number } {
    return { restarts: this.#link.restarts, running: this.#link.running, containers: this.#registrations.size };
  }

  /**
   * Makes a container's FIFOs, opens them and its log, and starts copying. Before Task.Create, and again for each running container
   * after a restart of the daemon: the log goes on with what waited in the FIFOs. Idempotent.
   */
  async openIo(io: IoRegistration): Promise<void> {
    this.#registrations.set(io.id, io);
    try {
      await this.#link.call('openIo', io);
    } catch (error) {
      this.#registrations.delete(io.id);
      throw error;
    }
  }

  /**
   * To be called when Task.Wait has answered, before the exit is told to anyone: resolves when all the container wrote is in its log.
   * `complete` is false when something else still holds its output open. Bounded: `maxMs`, 10 s when left out.
   */
  drain(id: string, limits: { quietMs?: number; maxMs?: number } = {}): Promise<{ complete: boolean }> {
    return this.#link.call('drain', { id, ...limits });
  }

  /** Goes on in a new file of the same path (ReopenContainerLog). Throws NOT_READY for a container whose IO is not open. */
  reopenLog(id: string): Promise<void> {
    return this.#link.call('reopenLog', { id });
  }

  /** Takes what is left in the FIFOs and closes. Idempotent. */
  async closeIo(id: string): Promise<void> {
    this.#registrations.delete(id);
    await this.#link.call('closeIo', { id });
  }

  /** {@link closeIo}, and removes the FIFOs with their folder. Idempotent; the undo of {@link openIo}. */
  async removeIo(io: { id: string; fifos: Fifos }): Promise<void> {
    this.#registrations.delete(io.id);
    await this.#link.call('removeIo', { id: io.id, fifos: io.fifos });
  }

  stats(): Promise<StdioStats> {
    return this.#link.call('stats', null);
  }

  /** FIFOs of an ExecSync; its output is kept in memory, at most `maxBytes` of each stream. */
  openCapture(execId: string, maxBytes: number): Promise<Fifos> {
    return this.#link.call('openCapture', { execId, maxBytes });
  }

  finishCapture(execId: string): Promise<Captured> {
    return this.#link.call('finishCapture', { execId });
  }

  dropCapture(execId: string): Promise<void> {
    return this.#link.call('dropCapture', { execId });
  }

  /** Starts the streaming server. After a restart of the worker it is there again, at the same port as a rule. */
  async listen(input: ListenInput): Promise<Listening> {
    const listening = await this.#link.call('listen', input);
    this.#listening = { input, ...listening };
    return listening;
  }

  /** A URL for one use within one minute. Throws QUEUE_FULL when a thousand wait to be used. */
  async issue(request: StreamRequest): Promise<string> {
    const { path } = await this.#link.call('issue', request);
    return (this.#listening?.url ?? '') + path;
  }

  /** Ends the worker thread and starts it again, as if it had died. */
  restart(): Promise<void> {
    return this.#link.restart();
  }

  /** Writes what was read, closes everything. Containers go on: their output waits in the FIFOs for the next daemon. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.#link.call('shutdown', null);
    } finally {
      await this.#link[Symbol.asyncDispose]();
    }
  }

  /** Logs matter more than streams: a server that cannot listen does not keep the worker from its containers. */
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

  async #answer(op: AskOp, input: unknown): Promise<unknown> {
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

  /** The worker is gone and nobody reads what its execs write: they would hang for ever. */
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
