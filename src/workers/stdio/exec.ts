import { randomBytes } from 'node:crypto';
import type { Readable, Writable } from 'node:stream';
import { finished } from 'node:stream/promises';
import { explain } from '../../errors.ts';
import { pooledCopy } from './buffer-pool.ts';
import { execFifos, makeFifos, unlinkFifos } from './capture.ts';
import { drainReaders, FifoReader, FifoWriter } from './fifo.ts';
import type { ExecBackend, StreamRequest } from './protocol.ts';
import { type Outcome, onResize, type RemoteSession } from './remote-session.ts';

/**
 * After the process has ended, its output counts as complete after so long without a byte from processes that still
 * have it open (milliseconds).
 */
const QUIET_MS = 500;

export interface ExecContext {
  backend: ExecBackend;
  execDir: string;
  onFailure(message: string): void;
}

type ExecRequest = Extract<StreamRequest, { kind: 'exec' }>;

/**
 * Runs an exec for a client. When the client disconnects first, the process is killed with its process group: otherwise
 * a shell that nobody can type into would stay in the container. Never rejects.
 */
export async function serveExec(request: ExecRequest, session: RemoteSession, context: ExecContext): Promise<void> {
  const { backend, execDir } = context;
  const exec = { containerId: request.containerId, execId: randomBytes(32).toString('hex') };
  const { stdin, stdout, stderr, resize, closed } = session;
  const fifos = execFifos(execDir, exec.execId, { stdin: !!stdin, stdout: !!stdout, stderr: !!stderr });
  const readers: FifoReader[] = [];
  let input: FifoWriter | undefined;
  let started = false;
  let outcome: Outcome;
  try {
    makeFifos(fifos);
    if (stdout) readers.push(forward(fifos.stdout, stdout));
    if (stderr) readers.push(forward(fifos.stderr, stderr));
    if (stdin) input = new FifoWriter(fifos.stdin);
    await backend.startExec({ ...exec, cmd: request.cmd, tty: request.tty, fifos });
    started = true;
    const failed = (what: string) => (error: unknown) => context.onFailure(`${what}: ${explain(error)}`);
    const kill = () => void backend.killExec(exec).catch(failed('killing an exec whose client is gone'));
    if (closed.aborted) kill();
    else closed.addEventListener('abort', kill);
    if (stdin && input) {
      void pump(stdin, input)
        .then((ended) => (ended ? backend.closeStdin(exec) : undefined))
        .catch(failed('closing an exec’s stdin'));
    }
    if (resize) onResize(resize, (size) => void backend.resize({ ...exec, ...size }).catch(failed('resizing an exec')));
    const exitCode = await backend.waitExec(exec);
    closed.removeEventListener('abort', kill);
    // The last output may not have been read yet, and the client may be slow.
    await Promise.race([drainReaders(readers, QUIET_MS, Number.POSITIVE_INFINITY), aborted(closed)]);
    outcome = { exitCode };
  } catch (error) {
    outcome = { error: `error executing command in container: ${explain(error)}` };
    context.onFailure(outcome.error);
  } finally {
    for (const reader of readers) reader[Symbol.dispose]();
    input?.[Symbol.dispose]();
    unlinkFifos(fifos);
  }
  const deleted = started ? backend.endExec(exec) : Promise.resolve();
  await Promise.all([
    session.finish(outcome),
    deleted.catch((error) => context.onFailure(`deleting an exec: ${explain(error)}`)),
  ]);
}

/** Copies a FIFO's data to the client, no faster than the client reads. */
function forward(path: string, output: Writable): FifoReader {
  // When the client has closed this stream, the data is read and dropped, so that the process does not block.
  const reader = new FifoReader(path, (bytes) => {
    if (output.destroyed) return true;
    const { copy, written } = pooledCopy(bytes);
    return output.write(copy, written);
  });
  output.on('drain', () => reader.resume());
  output.on('close', () => reader.resume());
  return reader;
}

/**
 * Copies the client's input. Resolves with true when the client ended its input and all of it was read, with false when
 * the process or the client went away first.
 */
async function pump(from: Readable, to: FifoWriter): Promise<boolean> {
  from.pipe(to.stream, { end: false });
  to.stream.on('close', () => from.resume()); // unread input would block the connection's other streams
  try {
    await finished(from, { writable: false });
  } catch {
    return false; // the connection broke, which is not an end of input
  }
  return to.close();
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
