/**
 * The thread that holds the bytes of all containers: their FIFOs and logs, and the streaming server for exec, attach and
 * port-forward. One thread, since a container's FIFO, its log and its attached clients must be in one place, and since the event
 * loop of one thread moves more than the containers of a node write. Main supervises it (src/node/streaming/restarting-worker.ts).
 */
import { dirname, join } from 'node:path';
import { isMainThread, type MessagePort, parentPort, workerData } from 'node:worker_threads';
import { fromPlain, SluiceError, toPlain } from '../errors.ts';
import { type Handlers, serve } from './serve.ts';
import { Captures, clearExecDir } from './stdio/capture.ts';
import { IoTable } from './stdio/io-table.ts';
import { Keeper } from './stdio/keeper.ts';
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
import { StreamServer } from './stdio/server.ts';

const DRAIN_QUIET_MS = 500;
const DRAIN_MAX_MS = 10_000;

if (isMainThread || !parentPort) throw new Error('this file is a worker thread’s');
const port: MessagePort = parentPort;
const { execDir } = workerData as StdioWorkerData;

const tell = (message: FromWorker, transfer: ArrayBuffer[] = []) => port.postMessage(message, transfer);
const event = (event: StdioEvent) => tell({ kind: 'event', event });

const questions = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();
let asked = 0;

/** Asks main, which asks the shim. */
function ask(op: AskOp, input: unknown): Promise<unknown> {
  const { promise, resolve, reject } = Promise.withResolvers<unknown>();
  const id = ++asked;
  questions.set(id, { resolve, reject });
  tell({ kind: 'ask', id, op, input });
  return promise;
}

const backend: ExecBackend = {
  startExec: async (start) => void (await ask('startExec', start)),
  waitExec: async (exec) => (await ask('waitExec', exec)) as number,
  killExec: async (exec) => void (await ask('killExec', exec)),
  endExec: async (exec) => void (await ask('endExec', exec)),
  resize: async (size) => void (await ask('resize', size)),
  closeStdin: async (process) => void (await ask('closeStdin', process)),
};

const containers = new IoTable({
  onLogError: (id, path, error) => event({ kind: 'log-failed', id, path, message: error.message }),
  onChange: () => keeper.changed(),
});
const keeper = new Keeper({
  file: join(dirname(execDir), 'keeper'),
  descriptors: () => containers.descriptors,
  onFailure: (message) => event({ kind: 'keeper-failed', message }),
});
const captures = new Captures(execDir);
const server = new StreamServer({ containers, backend, execDir, onEvent: event });

/** What main can call. Inputs and outputs are plain data. */
export const handlers = {
  /** Makes the FIFOs, opens them and the log, and starts copying. Again for the same id: fine. */
  openIo: (registration: IoRegistration): Promise<void> => containers.open(registration),
  /** Reads what is left, closes all. The FIFOs stay. Idempotent. */
  closeIo: ({ id }: { id: string }): Promise<void> => containers.close(id),
  /** {@link handlers.closeIo}, and removes the FIFOs. Idempotent; works for a container that is not open. */
  removeIo: (io: { id: string; fifos: Fifos }): Promise<void> => containers.remove(io),
  /** Goes on in a new file of the same path. Throws NOT_READY when the container's IO is not open. */
  reopenLog: async ({ id }: { id: string }): Promise<void> => (await containers.get(id)).reopenLog(),
  /** After the container ended: resolves when all it wrote is in the log. Always ends within `maxMs` and one write. */
  drain: async ({ id, quietMs = DRAIN_QUIET_MS, maxMs = DRAIN_MAX_MS }: DrainInput): Promise<{ complete: boolean }> =>
    (await containers.get(id)).drain(quietMs, maxMs),
  /** Sums for the metrics. */
  stats: (_: null): StdioStats => ({
    containers: containers.stats(),
    totals: containers.totals,
    ...server.use,
  }),

  /** ExecSync: makes the FIFOs and reads them into memory, until finishCapture or dropCapture. */
  openCapture: ({ execId, maxBytes }: CaptureInput): Fifos => captures.open(execId, maxBytes),
  finishCapture: ({ execId }: { execId: string }) => captures.finish(execId),
  dropCapture: ({ execId }: { execId: string }): void => captures.drop(execId),

  /** Starts the streaming server. */
  listen: (input: ListenInput) => server.listen(input),
  /** A path with a one-time token for the request. Throws QUEUE_FULL when too many are unused. */
  issue: (request: StreamRequest): { path: string } => ({ path: server.issue(request) }),
  /** Ends the server and all connections, writes what is read of logs, and leaves the rest in the FIFOs. */
  shutdown: async (_: null): Promise<void> => {
    await server.close();
    await keeper.close();
    await containers.suspend();
  },
} satisfies Handlers;

const run = serve(handlers);

port.on('message', async (message: ToWorker) => {
  if (message.kind === 'ping') return tell({ kind: 'pong' });
  if (message.kind === 'answer') {
    const question = questions.get(message.id);
    questions.delete(message.id);
    if (message.ok) question?.resolve(message.value);
    else question?.reject(fromPlain(message.error));
    return;
  }
  const reply = await run({ op: message.op, input: message.input });
  const transfer = message.op === 'finishCapture' && reply.ok ? buffersOf(reply.value) : [];
  tell({ kind: 'reply', id: message.id, reply }, transfer);
});

function buffersOf(value: unknown): ArrayBuffer[] {
  return Object.values(value as object).flatMap((field) =>
    field instanceof Uint8Array && field.buffer instanceof ArrayBuffer ? [field.buffer] : [],
  );
}

try {
  await clearExecDir(execDir);
} catch (cause) {
  throw new SluiceError('INTERNAL', `cannot prepare the folder for exec FIFOs (${toPlain(cause).message})`, { cause });
}
tell({ kind: 'ready' });
