import { randomBytes } from 'node:crypto';
import { SluiceError } from '../../errors.ts';
import type { ExecBackend } from '../../workers/stdio/protocol.ts';
import type { Stdio } from './stdio.ts';

/** Bytes kept of stdout and of stderr, each: an ExecSync answer must fit a gRPC message. The rest is read and dropped. */
export const MAX_CAPTURE = 16 << 20;
/** How long a process that was killed may take to be gone, in milliseconds. */
const KILL_WAIT_MS = 10_000;

export interface ExecSyncRequest {
  containerId: string;
  cmd: string[];
  /** Seconds; 0 for no limit. */
  timeoutSeconds: number;
  /** The caller's; when it fires, the process is killed. */
  signal?: AbortSignal;
}

export interface ExecSyncResult {
  stdout: Uint8Array;
  stderr: Uint8Array;
  exitCode: number;
  /** Bytes that were over {@link MAX_CAPTURE}. */
  dropped: number;
}

/**
 * Runs a command in a container and answers with its output. A background child that keeps the output open does not hold the answer
 * up. Throws TIMED_OUT or CALLER_GONE once the whole process group is dead, INVALID_REQUEST for no command, and what the
 * backend throws.
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
  const exec = { containerId, execId: randomBytes(32).toString('hex') };
  const fifos = await stdio.openCapture(exec.execId, MAX_CAPTURE);
  let captured = false;
  try {
    await backend.startExec({ ...exec, cmd, tty: false, fifos });
    try {
      const exitCode = await waitOrKill(backend, exec, request);
      captured = true;
      const { stdout, stderr, dropped } = await stdio.finishCapture(exec.execId);
      return { stdout, stderr, exitCode, dropped };
    } finally {
      await backend.endExec(exec);
    }
  } finally {
    if (!captured) await stdio.dropCapture(exec.execId);
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
    await withinKillWait(ended);
    throw outcome;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', gone);
    // Whatever became of it was said above.
    ended.catch(() => {});
  }
}

async function withinKillWait(ended: Promise<number>): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, KILL_WAIT_MS);
  try {
    await Promise.race([ended, promise]);
  } finally {
    clearTimeout(timer);
  }
}
