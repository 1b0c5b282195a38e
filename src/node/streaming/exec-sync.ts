import { SluiceError } from '../../errors.ts';
import { withTimeLimit } from '../../time-limit.ts';
import type { ExecBackend } from '../../workers/stdio/protocol.ts';
import type { Stdio } from './stdio.ts';

/** How long to wait for the end of a process after SIGKILL, in milliseconds. */
const KILL_WAIT_MS = 10_000;

export interface ExecSyncRequest {
  containerId: string;
  cmd: string[];
  /** Seconds; 0 for no limit. */
  timeoutSeconds: number;
  /** The caller's signal; the process is killed when it aborts. */
  signal?: AbortSignal;
}

export interface ExecSyncResult {
  stdout: Uint8Array;
  stderr: Uint8Array;
  exitCode: number;
  /** Bytes of output that were too many to be kept. */
  dropped: number;
}

/**
 * Runs a command in a container and returns its output. A background child that keeps the output open does not delay
 * the result. Throws TIMED_OUT or CALLER_GONE after SIGKILL to its process group, INVALID_REQUEST without a command,
 * and the errors of the backend.
 */
export async function runExecSync(
  stdio: Stdio,
  backend: ExecBackend,
  request: ExecSyncRequest,
): Promise<ExecSyncResult> {
  const { containerId, cmd, timeoutSeconds, signal } = request;
  if (cmd.length === 0) throw new SluiceError('INVALID_REQUEST', 'the command is empty');
  if (timeoutSeconds < 0) throw new SluiceError('INVALID_REQUEST', 'the timeout is negative');
  if (signal?.aborted) throw new SluiceError('CALLER_GONE', 'the caller has hung up');
  const { execId, fifos } = await stdio.openCapture();
  const exec = { containerId, execId };
  let captured = false;
  try {
    await backend.startExec({ ...exec, cmd, tty: false, fifos });
    // Asked for now: most processes close their output a moment before the shim has told of their end.
    const output = stdio.captureOutput(execId);
    output.catch(() => {}); // thrown below, or a kill's reason takes precedence
    try {
      const exitCode = await waitOrKill(backend, exec, request);
      const ended = stdio.captureEnded(execId);
      ended.catch(() => {}); // the worker has died, which `output` says as well
      const { stdout, stderr, dropped } = await output;
      captured = true;
      return { stdout, stderr, exitCode, dropped };
    } finally {
      await backend.endExec(exec);
    }
  } finally {
    if (!captured) await stdio.dropCapture(execId);
    stdio.prepareCapture();
  }
}

async function waitOrKill(
  backend: ExecBackend,
  exec: { containerId: string; execId: string },
  { timeoutSeconds, signal, cmd }: ExecSyncRequest,
): Promise<number> {
  const ended = backend.waitExec(exec);
  const { promise: stopped, resolve: stop } = Promise.withResolvers<SluiceError>();
  const gone = () => stop(new SluiceError('CALLER_GONE', `the caller hung up while ${cmd[0]} ran; it was killed`));
  const timer =
    timeoutSeconds > 0
      ? setTimeout(
          () => stop(new SluiceError('TIMED_OUT', `${cmd[0]} did not end within ${timeoutSeconds} s and was killed`)),
          Math.min(timeoutSeconds * 1000, 0x7fffffff),
        )
      : undefined;
  signal?.addEventListener('abort', gone);
  try {
    const outcome = await Promise.race([ended, stopped]);
    if (typeof outcome === 'number') return outcome;
    await backend.killExec(exec);
    await withTimeLimit(ended, KILL_WAIT_MS, () => {});
    throw outcome;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', gone);
    // The error of waitExec has been thrown above, or the kill's reason takes precedence.
    ended.catch(() => {});
  }
}
