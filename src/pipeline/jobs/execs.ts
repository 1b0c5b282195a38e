import { SluiceError } from '../../errors.ts';
import type { Metrics } from '../../node/observe/metrics.ts';
import { buildExecProcess } from '../../node/oci/exec-process.ts';
import type { Task } from '../../node/shims/task.ts';
import { libc } from '../../sys/libc.ts';
import { SIGKILL } from '../../sys/signals.ts';
import type { ExecBackend, ExecRef, ExecStart, ProcessRef } from '../../workers/stdio/protocol.ts';
import type { JobContext } from './context.ts';
import { getContainer, runningContainer } from './lookup.ts';

/** What execs use of the node: not stdio, which calls them. */
export type ExecContext = Omit<JobContext, 'stdio' | 'exits'>;

/** Commands in running containers, by the shim's Task service. The stdio worker and ExecSync start them. */
export class Execs implements ExecBackend {
  readonly #ctx: ExecContext;
  /** Pid of each exec that was started, which is also its process group's id: runc makes it a session leader. */
  readonly #pids = new Map<string, number>();

  constructor(ctx: ExecContext) {
    this.#ctx = ctx;
  }

  async startExec({ containerId, execId, cmd, tty, fifos }: ExecStart): Promise<void> {
    const { row, shim } = await runningContainer(containerId, this.#ctx);
    const spec = await this.#ctx.specs.of(row);
    if (!spec) throw new SluiceError('NOT_READY', `the bundle of container ${row.id} is gone`);
    const process = buildExecProcess(spec, { cmd, tty });
    await shim.task.exec({ id: row.id, execId, process, terminal: tty, ...fifos });
    try {
      this.#pids.set(execId, await shim.task.start(row.id, execId));
    } catch (error) {
      await shim.task.delete(row.id, execId).catch((err) => {
        this.#ctx.log.warn({ container: row.id, execId, err }, 'an exec that did not start could not be deleted');
      });
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
    // While the shim reports the exec as running its pid cannot have been reused, so the group can be killed by it.
    if (pid !== undefined && (await task.state(containerId, execId))?.status === 'running') libc.kill(-pid, SIGKILL);
    await task.kill(containerId, SIGKILL, { execId });
  }

  /** Deletes an exec that has ended. Nobody waits for it: output and exit code have been read. */
  async endExec({ containerId, execId }: ExecRef): Promise<void> {
    this.#pids.delete(execId);
    const task = await this.#task(containerId);
    task.delete(containerId, execId).catch((err) => {
      if (!this.#ctx.ending.aborted)
        this.#ctx.log.warn({ container: containerId, execId, err }, 'an exec could not be deleted');
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
    const row = getContainer(containerId, this.#ctx);
    const shim = this.#ctx.shims.get(row.sandbox);
    if (!shim) throw new SluiceError('SHIM_FAILED', `the shim of container ${containerId} is not connected`);
    return shim.task;
  }
}

/** The execs of the streaming server, each counted in the metrics; ExecSync counts its own. */
export class StreamedExecs extends Execs {
  readonly #metrics: Metrics;

  constructor(ctx: ExecContext) {
    super(ctx);
    this.#metrics = ctx.metrics;
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
