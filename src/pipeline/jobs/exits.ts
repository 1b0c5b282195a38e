import { setTimeout as sleep } from 'node:timers/promises';
import { nowNs } from '../../clock.ts';
import { codeOf, explain } from '../../errors.ts';
import type { Shim } from '../../node/shims/shims.ts';
import type { Exit } from '../../node/shims/task.ts';
import type { ContainerRow, SandboxRow } from '../../node/store/rows.ts';
import type { Node } from './context.ts';
import { cleanUpContainer } from './shim-call.ts';

const SIGKILLED = 137;
const OOM_KILLED = 'OOMKilled';
/** What a container's end is called when its shim died with it. */
const UNKNOWN_EXIT = 255;
/** How long after a look at a shim that is neither alive nor dead there is another. */
const LOOK_AGAIN_MS = 5000;

interface Watched {
  ended: Promise<void>;
  stopSignalled: boolean;
  /** The daemon itself has sent SIGKILL. */
  killed: boolean;
  outOfMemory: boolean;
}

/** Watches what runs for its end. Exits come from Task.Wait, which stays open as long as the process lives. */
export class Monitor {
  readonly #node: Node;
  readonly #containers = new Map<string, Watched>();

  constructor(node: Node) {
    this.#node = node;
  }

  /** A pod whose pause process ends is not ready any more; its network and the rest wait for StopPodSandbox. */
  watchSandbox(row: SandboxRow, shim: Shim): void {
    shim.task.wait(row.id).then(
      ({ exitStatus }) => this.#sandboxEnded(row, `the pause process ended with status ${exitStatus}`),
      (error) => this.#sandboxEnded(row, explain(error)),
    );
  }

  /** From now on the container's end is recorded: log drained, exit code and reason known, task deleted. */
  watchContainer(row: ContainerRow, shim: Shim): void {
    const ended = this.#follow(row, shim)
      .catch((error) => this.#node.log.error({ container: row.id, err: error }, 'recording a container’s end failed'))
      .finally(() => this.#containers.delete(row.id));
    this.#containers.set(row.id, { ended, stopSignalled: false, killed: false, outOfMemory: false });
  }

  /** Resolves when the container's end is recorded; at once when it is not watched. */
  containerEnded(id: string): Promise<void> {
    return this.#containers.get(id)?.ended ?? Promise.resolve();
  }

  /** Was the stop signal sent before? Asking counts as sending: it goes out once, however many stop the container. */
  stopSignalled(id: string): boolean {
    const watched = this.#containers.get(id);
    if (!watched) return true;
    const before = watched.stopSignalled;
    watched.stopSignalled = true;
    return before;
  }

  /** SIGKILL goes out: an end by it is no riddle. */
  killing(id: string): void {
    const watched = this.#containers.get(id);
    if (watched) watched.killed = true;
  }

  /** The shim tells of an OOM kill. It may do so after the end it was the cause of: then the reason is put right. */
  outOfMemory(id: string): void {
    const watched = this.#containers.get(id);
    if (watched) watched.outOfMemory = true;
    const row = this.#node.store.containers.get(id);
    if (!row || row.finishedAt === 0n || (row.reason !== 'Error' && row.reason !== 'Completed')) return;
    row.reason = OOM_KILLED;
    this.#node.store.containers.put(row);
  }

  #sandboxEnded(row: SandboxRow, reason: string): void {
    // A stop or removal under way expects this, and a daemon that ends has merely hung up.
    if (row.state !== 'ready' || this.#node.closing || this.#node.locks.held(row.id)) return;
    row.state = 'notready';
    this.#node.store.sandboxes.put(row);
    this.#node.log.warn({ sandbox: row.id, name: row.name, reason }, 'pod is not ready any more');
    this.#node.events.publish('stopped', row.id, row.id);
  }

  async #follow(row: ContainerRow, shim: Shim): Promise<void> {
    const node = this.#node;
    // An earlier daemon that knew the end died before it could tell it; of a task that it had deleted the shim knows nothing more.
    const ended = row.finishedAt === 0n ? await this.#waitForEnd(row, shim) : shim;
    if (ended === 'closing') return; // the next daemon asks again
    await node.stdio.removeIo({ id: row.id, fifos: row.io });
    try {
      if (ended !== 'lost') await ended.task.delete(row.id);
    } catch (error) {
      if (node.closing) return;
      row.taskKept = explain(error);
      node.log.warn(
        { container: row.id, reason: row.taskKept },
        'the ended task could not be deleted; the removal of its container, or of its pod, tries again',
      );
    }
    this.recordEnd(row);
  }

  /**
   * Waits for the container's end and notes it in its row, which still says `running`. Gives the shim that knows the ended task, `lost`
   * when it died (what it left is cleaned up then, or goes on running unwatched), `closing` when the daemon ends first.
   */
  async #waitForEnd(row: ContainerRow, first: Shim): Promise<Shim | 'lost' | 'closing'> {
    const node = this.#node;
    for (let shim: Shim | undefined = first; ; ) {
      try {
        const exit = await shim.task.wait(row.id);
        const oom = await this.#wasOutOfMemory(row, exit);
        await node.stdio.drain(row.id);
        this.#note(row, exit, oom ? OOM_KILLED : exit.exitStatus === 0 ? 'Completed' : 'Error', '');
        return shim;
      } catch (error) {
        if (node.closing) return 'closing';
        shim = codeOf(error) === 'SHIM_FAILED' ? await this.#findAgain(row) : undefined;
        if (shim) continue;
        if (node.closing) return 'closing';
        await node.stdio.drain(row.id);
        this.#note(row, { exitStatus: UNKNOWN_EXIT, at: nowNs() }, 'Unknown', explain(error));
        return 'lost';
      }
    }
  }

  /** After the connection to the shim broke: the shim, or undefined when it is dead and its container has been cleaned up. */
  async #findAgain(row: ContainerRow): Promise<Shim | undefined> {
    const node = this.#node;
    for (;;) {
      const sandbox = node.store.sandboxes.get(row.sandbox);
      if (!sandbox?.shim || sandbox.shimEnded || node.closing) return undefined;
      const found = await node.shims.reattach(sandbox.id, sandbox.shim);
      if (found.state === 'alive') return found.shim;
      if (found.state === 'dead') {
        try {
          await cleanUpContainer(row, sandbox, node);
        } catch (error) {
          node.log.error(
            { container: row.id, reason: explain(error) },
            'what a dead shim left could not be cleaned up',
          );
        }
        return undefined;
      }
      await sleep(LOOK_AGAIN_MS, undefined, { ref: false });
    }
  }

  /**
   * By the shim's event, or by the cgroup's own count, which must be read before the task is deleted and the cgroup with it. systemd
   * takes an empty scope away sooner than that, and mostly before the shim has looked: then the kernel's log tells.
   */
  async #wasOutOfMemory(row: ContainerRow, { exitStatus }: Exit): Promise<boolean> {
    const watched = this.#containers.get(row.id);
    if (watched?.outOfMemory) return true;
    if (exitStatus !== SIGKILLED) return false;
    const { id, cgroupsPath, pid, createdAt } = row;
    const { shim } = this.#node.pools;
    const kills = await shim.call('oomKills', { cgroupsPath, pid });
    if (kills !== undefined) return kills > 0n;
    if (watched?.killed) return false;
    const sinceUs = Number((process.hrtime.bigint() - (nowNs() - createdAt)) / 1000n);
    return (await shim.call('oomKillLogged', { name: id, pid, sinceUs })) ?? false;
  }

  #note(row: ContainerRow, { exitStatus, at }: Exit, reason: string, message: string): void {
    row.exitCode = exitStatus;
    row.reason = reason;
    row.message = message;
    row.finishedAt = at || nowNs();
    this.#node.store.containers.put(row);
  }

  /** The end that the row notes is complete: it is told from now on. */
  recordEnd(row: ContainerRow): void {
    row.state = 'exited';
    this.#node.store.containers.put(row);
    this.#node.metrics.inc('exits', { result: exitKind(row.exitCode, row.reason) });
    this.#node.events.publish('stopped', row.id, row.sandbox);
  }
}

function exitKind(status: number, reason: string): 'zero' | 'nonzero' | 'signal' | 'oom' {
  if (reason === OOM_KILLED) return 'oom';
  if (status === 0) return 'zero';
  return status > 128 && status < 128 + 65 ? 'signal' : 'nonzero';
}
