import type { ExecSyncRequest, ExecSyncResponse } from '../../../proto/gen/cri.ts';
import { codeOf } from '../../errors.ts';
import type { Node } from '../../pipeline/node.ts';
import { runExecSync } from '../streaming/exec-sync.ts';
import type { Unary } from './call.ts';

export const execSync =
  (node: Node): Unary<ExecSyncRequest, ExecSyncResponse> =>
  async ({ containerId, cmd, timeout }, call) => {
    const { row } = await node.containers.running(containerId);
    const request = { containerId: row.id, cmd, timeoutSeconds: Number(timeout), signal: call.left };
    const { stdout, stderr, exitCode } = await counted(node, runExecSync(node.stdio, node.execs, request));
    return { stdout: Buffer.from(stdout), stderr: Buffer.from(stderr), exitCode };
  };

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
