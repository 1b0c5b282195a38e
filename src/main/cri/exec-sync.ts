import type { ExecSyncRequest, ExecSyncResponse } from '../../../proto/gen/cri.ts';
import { codeOf } from '../../errors.ts';
import { runExecSync } from '../../node/streaming/exec-sync.ts';
import type { Unary } from './call.ts';
import type { CriServices as Node } from './services.ts';

export const execSync =
  (node: Node): Unary<ExecSyncRequest, ExecSyncResponse> =>
  async ({ containerId, cmd, timeout }, call) => {
    const { row } = await node.containers.running(containerId);
    const request = { containerId: row.id, cmd, timeoutSeconds: Number(timeout), signal: call.left };
    const { stdout, stderr, exitCode } = await counted(node, runExecSync(node.stdio, node.execs, request));
    return { ...fitted(Buffer.from(stdout), Buffer.from(stderr)), exitCode };
  };

/** Bytes of output that fit into one message of 16 MiB, beside its own few. */
const ROOM = (16 << 20) - 1024;

/** What the two streams may have together: each half of the message, or more where the other has less to say. */
function fitted(stdout: Buffer, stderr: Buffer): { stdout: Buffer; stderr: Buffer } {
  const half = ROOM / 2;
  const ofOut = Math.max(half, ROOM - stderr.length);
  const ofErr = Math.max(half, ROOM - stdout.length);
  return { stdout: stdout.subarray(0, ofOut), stderr: stderr.subarray(0, ofErr) };
}

/** A command that ran is fine, whatever its exit code. */
async function counted<T>(node: Node, exec: Promise<T>): Promise<T> {
  try {
    const result = await exec;
    node.metrics.inc('execs', { kind: 'sync', outcome: 'ok' });
    return result;
  } catch (error) {
    node.metrics.inc('execs', { kind: 'sync', outcome: codeOf(error) === 'TIMED_OUT' ? 'timeout' : 'error' });
    throw error;
  }
}
