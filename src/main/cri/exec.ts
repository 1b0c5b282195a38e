/**
 * Commands in containers, and streams to them: ExecSync, and the three verbs that answer with a one-time URL of the
 * streaming server.
 */
import { codeOf, SluiceError } from '../../errors.ts';
import { runExecSync } from '../../node/streaming/exec-sync.ts';
import { readySandbox } from '../../pipeline/jobs/lookup.ts';
import type { StreamOptions } from '../../workers/stdio/protocol.ts';
import type { RuntimeVerbs } from './call.ts';
import type { CriServices } from './services.ts';

export const execVerbs = (services: CriServices) =>
  ({
    /** `timeout` is in seconds; 0 is none. */
    async execSync({ containerId, cmd, timeout }, call) {
      const { row } = await services.containers.running(containerId);
      const request = { containerId: row.id, cmd, timeoutSeconds: Number(timeout), signal: call.left };
      const result = await counted(services, runExecSync(services.stdio, services.execs, request));
      return { ...fitted(Buffer.from(result.stdout), Buffer.from(result.stderr)), exitCode: result.exitCode };
    },

    async exec({ containerId, cmd, ...streams }) {
      const options = checked(streams);
      if (cmd.length === 0) throw new SluiceError('INVALID_REQUEST', 'the command is empty');
      const { row } = await services.containers.running(containerId);
      return { url: await services.stdio.issue({ kind: 'exec', containerId: row.id, cmd, ...options }) };
    },

    async attach({ containerId, ...streams }) {
      const options = checked(streams);
      const { row } = await services.containers.running(containerId);
      return { url: await services.stdio.issue({ kind: 'attach', containerId: row.id, ...options }) };
    },

    async portForward({ podSandboxId, port }) {
      const { id, netns } = readySandbox(podSandboxId, services);
      return { url: await services.stdio.issue({ kind: 'portforward', sandboxId: id, netns, ports: port }) };
    },
  }) satisfies Partial<RuntimeVerbs>;

/** CRI: a terminal has one output and excludes stderr; a session needs at least one stream. */
function checked({ tty, stdin, stdout, stderr }: StreamOptions): StreamOptions {
  if (tty && stderr) throw new SluiceError('INVALID_REQUEST', 'tty and stderr cannot both be set');
  if (!stdin && !stdout && !stderr)
    throw new SluiceError('INVALID_REQUEST', 'one of stdin, stdout and stderr must be set');
  return { tty, stdin, stdout, stderr };
}

/** Bytes of output that fit into one message of 16 MiB, beside its other fields. */
const ROOM = (16 << 20) - 1024;

/** Cuts the two outputs to one message: each gets half of it, and what the other leaves free. */
function fitted(stdout: Buffer, stderr: Buffer): { stdout: Buffer; stderr: Buffer } {
  const half = ROOM / 2;
  const ofOut = Math.max(half, ROOM - stderr.length);
  const ofErr = Math.max(half, ROOM - stdout.length);
  return { stdout: stdout.subarray(0, ofOut), stderr: stderr.subarray(0, ofErr) };
}

/** Counts an ExecSync. A command that ran counts as `ok` whatever its exit code. */
async function counted<T>({ metrics }: CriServices, exec: Promise<T>): Promise<T> {
  try {
    const result = await exec;
    metrics.inc('execs', { kind: 'sync', outcome: 'ok' });
    return result;
  } catch (error) {
    metrics.inc('execs', { kind: 'sync', outcome: codeOf(error) === 'TIMED_OUT' ? 'timeout' : 'error' });
    throw error;
  }
}
