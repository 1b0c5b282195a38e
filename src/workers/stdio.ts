/**
 * The thread that holds the bytes of all containers: their FIFOs and logs, and the streaming server for exec, attach
 * and port-forward. One thread, since a container's FIFO, its log and its attached clients must be in one place, and
 * since the event loop of one thread moves more than the containers of a node write. Main supervises it
 * (src/node/streaming/restarting-worker.ts).
 */
import { dirname, join } from 'node:path';
import { isMainThread, type MessagePort, parentPort, workerData } from 'node:worker_threads';
import { explain, fromPlain, SluiceError, toPlain } from '../errors.ts';
import { shrinkHeap } from '../sys/memory.ts';
import { RealtimeGuard } from '../sys/realtime.ts';
import { type Handlers, serve } from './serve.ts';
import { Captures, clearExecDir } from './stdio/capture.ts';
import { IoTable } from './stdio/io-table.ts';
import { OutputJournal } from './stdio/journal.ts';
import { INHERITED_MS, Keeper } from './stdio/keeper.ts';
import type {
  AskOp,
  CaptureInput,
  DrainInput,
  ExecBackend,
  Fifos,
  FromWorker,
  IoRegistration,
  ListenInput,
  StdioEvent,
  StdioStats,
  StdioWorkerData,
  StreamRequest,
  ToWorker,
} from './stdio/protocol.ts';
import { StreamServer } from './stdio/streaming-server.ts';

const DRAIN_QUIET_MS = 500;
const DRAIN_MAX_MS = 10_000;
const GUARD_MS = 1000;

if (isMainThread || !parentPort) throw new Error('this file is a worker thread’s');
const port: MessagePort = parentPort;
const { execDir, realtime } = workerData as StdioWorkerData;

const post = (message: FromWorker, transfer: ArrayBuffer[] = []) => port.postMessage(message, transfer);
const event = (event: StdioEvent) => post({ kind: 'event', event });

const pending = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();
let lastId = 0;

/** Sends a request to main, which calls the shim, and resolves with the answer. */
function request(op: AskOp, input: unknown): Promise<unknown> {
  const { promise, resolve, reject } = Promise.withResolvers<unknown>();
  const id = ++lastId;
  pending.set(id, { resolve, reject });
  post({ kind: 'ask', id, op, input });
  return promise;
}

const backend: ExecBackend = {
  startExec: async (start) => void (await request('startExec', start)),
  waitExec: async (exec) => (await request('waitExec', exec)) as number,
  killExec: async (exec) => void (await request('killExec', exec)),
  endExec: async (exec) => void (await request('endExec', exec)),
  resize: async (size) => void (await request('resize', size)),
  closeStdin: async (process) => void (await request('closeStdin', process)),
};

const keeper: Keeper = new Keeper({
  file: join(dirname(execDir), 'keeper'),
  descriptors: () => containers.descriptors,
  onFailure: (message) => event({ kind: 'keeper-failed', message }),
});
const containers = new IoTable(
  {
    onLogError: (id, path, error) => event({ kind: 'log-failed', id, path, message: error.message }),
    onOpened: (descriptors) => keeper.hold(descriptors),
    onEmpty: () => keeper.changed(),
  },
  openJournal(),
);
setTimeout(() => containers.forgetOthers(), INHERITED_MS).unref();
if (realtime) guardMain();

/** This thread watches over main's policy: it runs always, and has little to do. */
function guardMain(): void {
  const told = (message: string) => event({ kind: 'main-priority', message });
  const guard = new RealtimeGuard(process.pid, (seconds) => {
    told(`the main thread ran for ${seconds} s without a pause: it is no real-time thread until it has one`);
  });
  const timer = setInterval(() => {
    try {
      guard.look();
    } catch (error) {
      clearInterval(timer);
      told(`nobody watches over the main thread's priority any more: ${explain(error)}`);
    }
  }, GUARD_MS).unref();
}

/** Without it containers run as well, so that only the event tells when it cannot be opened. */
function openJournal(): OutputJournal | undefined {
  try {
    return OutputJournal.open(keeper.inherited);
  } catch (error) {
    const message = `output that is being written when the daemon is killed will be lost: ${explain(error)}`;
    event({ kind: 'keeper-failed', message });
    return undefined;
  }
}

const captures = new Captures(execDir);
const server = new StreamServer({ containers, backend, execDir, onEvent: event });

/** The calls that main makes. Inputs and outputs are plain data. */
export const handlers = {
  /** Makes and opens the FIFOs, opens the log, and starts copying. Idempotent per id. */
  openIo: (registration: IoRegistration): Promise<void> => containers.open(registration),
  /** Reads what is left in the FIFOs and closes everything. The FIFOs remain. Idempotent. */
  closeIo: ({ id }: { id: string }): Promise<void> => containers.close(id),
  /** {@link handlers.closeIo}, then removes the FIFOs. Idempotent; works for a container that is not open. */
  removeIo: (io: { id: string; fifos: Fifos }): Promise<void> => containers.remove(io),
  /** Continues the log in a new file of the same path. Throws NOT_READY when the container's IO is not open. */
  reopenLog: async ({ id }: { id: string }): Promise<void> => (await containers.get(id)).reopenLog(),
  /**
   * For a container that has ended: resolves when all its output is in the log, after at most `maxMs` and one write.
   */
  drain: async ({ id, quietMs = DRAIN_QUIET_MS, maxMs = DRAIN_MAX_MS }: DrainInput): Promise<{ complete: boolean }> =>
    (await containers.get(id)).drain(quietMs, maxMs),
  shrinkHeap: (_: null) => shrinkHeap(),
  /** Totals for the metrics. */
  stats: (_: null): StdioStats => ({
    containers: containers.stats(),
    totals: containers.totals,
    ...server.use,
  }),

  /** ExecSync: makes the FIFOs and reads them into memory, until they are at their end, or dropCapture. */
  openCapture: ({ execId, maxBytes }: CaptureInput): Fifos => captures.open(execId, maxBytes),
  captureOutput: ({ execId }: { execId: string }) => captures.output(execId),
  captureEnded: ({ execId }: { execId: string }): void => captures.processEnded(execId),
  dropCapture: ({ execId }: { execId: string }): void => captures.drop(execId),

  /** Starts the streaming server. */
  listen: (input: ListenInput) => server.listen(input),
  /** Returns a URL path with a one-time token for the request. Throws QUEUE_FULL when too many are unused. */
  issue: (request: StreamRequest): { path: string } => ({ path: server.issue(request) }),
  /** Closes the server and all connections, writes buffered log lines, and leaves unread output in the FIFOs. */
  shutdown: async (_: null): Promise<void> => {
    await server.close();
    captures[Symbol.dispose]();
    await keeper.close();
    await containers.suspend();
  },
} satisfies Handlers;

const run = serve(handlers);

port.on('message', async (message: ToWorker) => {
  if (message.kind === 'ping') return post({ kind: 'pong' });
  if (message.kind === 'answer') {
    const request = pending.get(message.id);
    pending.delete(message.id);
    if (message.ok) request?.resolve(message.value);
    else request?.reject(fromPlain(message.error));
    return;
  }
  const reply = await run({ op: message.op, input: message.input });
  const transfer = message.op === 'captureOutput' && reply.ok ? buffersOf(reply.value) : [];
  post({ kind: 'reply', id: message.id, reply }, transfer);
});

function buffersOf(value: unknown): ArrayBuffer[] {
  return Object.values(value as object).flatMap((field) =>
    field instanceof Uint8Array && field.buffer instanceof ArrayBuffer ? [field.buffer] : [],
  );
}

// A rejection ends the thread, which main starts again. A release is CommonJS, which cannot wait at this place.
void clearExecDir(execDir).then(
  () => post({ kind: 'ready' }),
  (cause: unknown) => {
    const message = `cannot prepare the folder for exec FIFOs (${toPlain(cause).message})`;
    throw new SluiceError('INTERNAL', message, { cause });
  },
);
