import { randomBytes } from 'node:crypto';
import type { Readable, Writable } from 'node:stream';
import { finished } from 'node:stream/promises';
import { explain } from '../../errors.ts';
import { pooledCopy } from './buffer-pool.ts';
import { execFifos, makeFifos, unlinkFifos } from './capture.ts';
import { drainReaders, FifoReader, FifoWriter } from './fifo.ts';
import type { ExecBackend, StreamRequest } from './protocol.ts';
import { type Outcome, onResize, type RemoteSession } from './remote-session.ts';

/** After the process ended: so much silence of what still holds its output counts as its end, in milliseconds. */
const QUIET_MS = 500;

export interface ExecContext {
  backend: ExecBackend;
  execDir: string;
  onFailure(message: string): void;
}

type ExecRequest = Extract<StreamRequest, { kind: 'exec' }>;

/**
 * Runs an exec for a client. The process is killed, its group with it, when the client goes before it has ended: a shell nobody can
 * type into would stay in the container for ever. Never rejects.
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
    // What the process wrote last may still be on its way, and the client may be slow.
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
  const forgotten = started ? backend.endExec(exec) : Promise.resolve();
  await Promise.all([
    session.finish(outcome),
    forgotten.catch((error) => context.onFailure(`forgetting an exec: ${explain(error)}`)),
  ]);
}

/** Sends what a FIFO yields to the client, no faster than the client takes it. */
function forward(path: string, output: Writable): FifoReader {
  // A client that is gone, or does not want this stream any more, holds nothing up.
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
 * Copies what the client types. Resolves with true when the client ended its input and all of it was taken, with false when the process
 * or the client went first.
 */
async function pump(from: Readable, to: FifoWriter): Promise<boolean> {
  from.pipe(to.stream, { end: false });
  to.stream.on('close', () => from.resume()); // the connection's other streams must not wait behind it
  try {
    await finished(from, { writable: false });
  } catch {
    return false; // broken off: that is no end of input
  }
  return to.close();
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
