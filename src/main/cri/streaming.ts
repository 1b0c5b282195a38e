import type {
  AttachRequest,
  AttachResponse,
  ExecRequest,
  ExecResponse,
  PortForwardRequest,
  PortForwardResponse,
} from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import type { StreamOptions } from '../../workers/stdio/protocol.ts';
import type { Unary } from './call.ts';
import type { CriServices as Node } from './services.ts';

/** The three calls that answer with a one-time URL; the bytes then go past the main thread. */
export const exec =
  (node: Node): Unary<ExecRequest, ExecResponse> =>
  async ({ containerId, cmd, ...streams }) => {
    const options = checked(streams);
    if (cmd.length === 0) throw new SluiceError('INVALID_REQUEST', 'the command is empty');
    const { row } = await node.containers.running(containerId);
    return { url: await node.stdio.issue({ kind: 'exec', containerId: row.id, cmd, ...options }) };
  };

export const attach =
  (node: Node): Unary<AttachRequest, AttachResponse> =>
  async ({ containerId, ...streams }) => {
    const options = checked(streams);
    const { row } = await node.containers.running(containerId);
    return { url: await node.stdio.issue({ kind: 'attach', containerId: row.id, ...options }) };
  };

export const portForward =
  (node: Node): Unary<PortForwardRequest, PortForwardResponse> =>
  async ({ podSandboxId, port }) => {
    const row = node.store.sandboxes.find(podSandboxId);
    if (!row) throw new SluiceError('SANDBOX_NOT_FOUND', `no pod sandbox has the id "${podSandboxId}"`);
    if (row.state !== 'ready') throw new SluiceError('NOT_READY', `pod ${row.id} is not ready`);
    return { url: await node.stdio.issue({ kind: 'portforward', sandboxId: row.id, netns: row.netns, ports: port }) };
  };

/** CRI: a terminal has one output, so it excludes stderr; and a stream without streams is a mistake. */
function checked({ tty, stdin, stdout, stderr }: StreamOptions): StreamOptions {
  if (tty && stderr) throw new SluiceError('INVALID_REQUEST', 'tty and stderr cannot both be set');
  if (!stdin && !stdout && !stderr)
    throw new SluiceError('INVALID_REQUEST', 'one of stdin, stdout and stderr must be set');
  return { tty, stdin, stdout, stderr };
}
