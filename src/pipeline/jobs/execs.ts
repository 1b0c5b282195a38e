import { SluiceError } from '../../errors.ts';
import { buildExecProcess } from '../../node/oci/process.ts';
import type { Task } from '../../node/shims/task.ts';
import { libc } from '../../sys/libc.ts';
import { SIGKILL } from '../../sys/signals.ts';
import type { ExecBackend, ExecRef, ExecStart, ProcessRef } from '../../workers/stdio/protocol.ts';
import type { Node } from './context.ts';

/** Commands in running containers, by the shim's Task service. The stdio worker asks for them, and ExecSync does. */
export class Execs implements ExecBackend {
  readonly #node: Node;
  /** Pid of each exec that was started, which is also its process group's id: runc makes it a session leader. */
  readonly #pids = new Map<string, number>();

  constructor(node: Node) {
    this.#node = node;
  }

  async startExec({ containerId, execId, cmd, tty, fifos }: ExecStart): Promise<void> {
    const { row, shim } = await this.#node.containers.running(containerId);
    const spec = await this.#node.specs.of(row);
    if (!spec) throw new SluiceError('NOT_READY', `the bundle of container ${row.id} is gone`);
    const process = buildExecProcess(spec, { cmd, tty });
    await shim.task.exec({ id: row.id, execId, process, terminal: tty, ...fifos });
    try {
      this.#pids.set(execId, await shim.task.start(row.id, execId));
    } catch (error) {
      await shim.task.delete(row.id, execId);
      throw error;
    }
  }

  async waitExec({ containerId, execId }: ExecRef): Promise<number> {
    const task = await this.#task(containerId);
    return (await task.wait(containerId, execId)).exitStatus;
  }

  async killExec({ containerId, execId }: ExecRef): Promise<void> {
    const task = await this.#task(containerId);
    const pid = this.#pids.get(execId);
    // The shim says whether the exec still lives, so its pid is still its own when the rest of the group is killed.
    if (pid !== undefined && (await task.state(containerId, execId))?.status === 'running') libc.kill(-pid, SIGKILL);
    await task.kill(containerId, SIGKILL, { execId });
  }

  /** Forgetting an exec that has ended holds nobody up: its output and exit code are known. */
  async endExec({ containerId, execId }: ExecRef): Promise<void> {
    this.#pids.delete(execId);
    const task = await this.#task(containerId);
    task.delete(containerId, execId).catch((err) => {
      if (!this.#node.closing)
        this.#node.log.warn({ container: containerId, execId, err }, 'an exec could not be deleted');
    });
  }

  async resize({
    containerId,
    execId = '',
    width,
    height,
  }: ProcessRef & { width: number; height: number }): Promise<void> {
    await (await this.#task(containerId)).resizePty(containerId, execId, { width, height });
  }

  async closeStdin({ containerId, execId = '' }: ProcessRef): Promise<void> {
    await (await this.#task(containerId)).closeStdin(containerId, execId);
  }

  /** The task service of the container's pod, also while the container itself has just ended. */
  async #task(containerId: string): Promise<Task> {
    const row = this.#node.containers.get(containerId);
    const shim = this.#node.shims.get(row.sandbox);
    if (!shim) throw new SluiceError('SHIM_FAILED', `the shim of container ${containerId} is not connected`);
    return shim.task;
  }
}

/** The same for the streaming server, with each exec counted; ExecSync counts its own. */
export class StreamedExecs extends Execs {
  readonly #metrics: Node['metrics'];

  constructor(node: Node) {
    super(node);
    this.#metrics = node.metrics;
  }

  override async waitExec(exec: ExecRef): Promise<number> {
    try {
      const code = await super.waitExec(exec);
      this.#metrics.inc('execs', { kind: 'stream', outcome: 'ok' });
      return code;
    } catch (error) {
      this.#metrics.inc('execs', { kind: 'stream', outcome: 'error' });
      throw error;
    }
  }
}
