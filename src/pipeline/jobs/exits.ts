import { setTimeout as sleep } from 'node:timers/promises';
import { nowNs } from '../../clock.ts';
import { codeOf, explain } from '../../errors.ts';
import type { ShimEvent } from '../../node/shims/events.ts';
import type { Shim } from '../../node/shims/shims.ts';
import type { Exit } from '../../node/shims/task.ts';
import type { ContainerRow, End } from '../../node/store/container.ts';
import type { SandboxRow } from '../../node/store/sandbox.ts';
import type { Locks } from '../engine/lock.ts';
import type { Exits, JobContext } from './context.ts';
import { cleanUpContainer } from './pod-shim.ts';

/** Exit code of a container whose shim died with it, as containerd has it. */
export const UNKNOWN_EXIT = 255;
const SIGKILLED = 137;
const OOM_KILLED = 'OOMKilled';
/** Milliseconds until the next look at a shim that is neither alive nor dead. */
const LOOK_AGAIN_MS = 5000;

interface Watched {
  ended: Promise<void>;
  stopSignalled: boolean;
  /** The daemon itself has sent SIGKILL. */
  killed: boolean;
  outOfMemory: boolean;
}

/** What the watch uses of the node: all but itself. */
type ExitContext = Omit<JobContext, 'exits'>;

/** Watches what runs for its end. Exits come from Task.Wait, which stays open as long as the process lives. */
export class ExitWatch implements Exits {
  readonly #ctx: ExitContext;
  readonly #locks: Locks;
  readonly #containers = new Map<string, Watched>();

  constructor(ctx: ExitContext, locks: Locks) {
    this.#ctx = ctx;
    this.#locks = locks;
  }

  /** A pod whose pause process ends is not ready any more; its network and the rest are held until StopPodSandbox. */
  watchSandbox(row: SandboxRow, shim: Shim): void {
    shim.task.wait(row.id).then(
      ({ exitStatus }) => this.#sandboxEnded(row, `the pause process ended with status ${exitStatus}`),
      (error) => this.#sandboxEnded(row, explain(error)),
    );
  }

  watchContainer(row: ContainerRow, shim: Shim): void {
    const ended = this.#follow(row, shim)
      .catch((error) => this.#ctx.log.error({ container: row.id, err: error }, 'recording a container’s end failed'))
      .finally(() => this.#containers.delete(row.id));
    this.#containers.set(row.id, { ended, stopSignalled: false, killed: false, outOfMemory: false });
  }

  watchEnd(id: string, ended: Promise<void>): void {
    const forgotten = ended.finally(() => this.#containers.delete(id));
    this.#containers.set(id, { ended: forgotten, stopSignalled: false, killed: false, outOfMemory: false });
  }

  watches(id: string): boolean {
    return this.#containers.has(id);
  }

  containerEnded(id: string): Promise<void> {
    return this.#containers.get(id)?.ended ?? Promise.resolve();
  }

  stopSignalled(id: string): boolean {
    const watched = this.#containers.get(id);
    if (!watched) return true;
    const before = watched.stopSignalled;
    watched.stopSignalled = true;
    return before;
  }

  killing(id: string): void {
    const watched = this.#containers.get(id);
    if (watched) watched.killed = true;
  }

  /**
   * Takes an event of a shim. OOM kills come this way; a missed one shows in the cgroup when the container has ended.
   */
  onShimEvent(event: ShimEvent): void {
    if (event.kind === 'TaskOOM') this.#outOfMemory(event.event.containerId);
  }

  /** Records the end of a container, `end` or what its row has noted already, counts it and publishes it. */
  recordEnd(row: ContainerRow, end?: End): void {
    this.#ctx.containerStates.exited(row, end);
    this.#ctx.metrics.inc('exits', { result: exitKind(row.exitCode, row.reason) });
  }

  /** The event may come after the end that it was the cause of: then the recorded reason is corrected. */
  #outOfMemory(id: string): void {
    const watched = this.#containers.get(id);
    if (watched) watched.outOfMemory = true;
    const row = this.#ctx.store.containers.get(id);
    if (!row || row.finishedAt === 0n || (row.reason !== 'Error' && row.reason !== 'Completed')) return;
    row.reason = OOM_KILLED;
    this.#ctx.store.containers.update(row);
  }

  #sandboxEnded(row: SandboxRow, reason: string): void {
    // A daemon that ends has merely closed the connection.
    if (row.state !== 'ready' || this.#ctx.ending.aborted) return;
    this.#ctx.sandboxStates.notReady(row);
    // A stop or removal under way expects this.
    if (this.#locks.held(row.id)) return;
    this.#ctx.log.warn({ sandbox: row.id, name: row.name, reason }, 'pod is not ready any more');
  }

  async #follow(row: ContainerRow, shim: Shim): Promise<void> {
    const ctx = this.#ctx;
    // An earlier daemon may have noted the end and died before it recorded it; of a task that it had deleted the shim
    // has no trace.
    const ended = row.finishedAt === 0n ? await this.#waitForEnd(row, shim) : shim;
    if (ended === 'closing') return; // the next daemon asks again
    await this.#bestEffort(row, 'closing its IO', () => ctx.stdio.removeIo({ id: row.id, fifos: row.io }));
    try {
      if (ended !== 'lost') await ended.task.delete(row.id);
    } catch (error) {
      if (ctx.ending.aborted) return;
      row.taskKept = explain(error);
      ctx.log.warn(
        { container: row.id, reason: row.taskKept },
        'the ended task could not be deleted; the removal of its container, or of its pod, tries again',
      );
    }
    this.recordEnd(row);
  }

  /**
   * Waits for the container's end and notes it in its row, which stays `running`. Resolves to the shim that has the
   * ended task, `lost` when the shim died (what it left is cleaned up then, or goes on running unwatched), `closing`
   * when the daemon ends first.
   */
  async #waitForEnd(row: ContainerRow, first: Shim): Promise<Shim | 'lost' | 'closing'> {
    const ctx = this.#ctx;
    for (let shim: Shim | undefined = first; ; ) {
      let exit: Exit;
      try {
        exit = await shim.task.wait(row.id);
      } catch (error) {
        if (ctx.ending.aborted) return 'closing';
        shim = codeOf(error) === 'SHIM_FAILED' ? await this.#findAgain(row) : undefined;
        if (shim) continue;
        if (ctx.ending.aborted) return 'closing';
        await this.#bestEffort(row, 'draining its log', () => ctx.stdio.drain(row.id));
        ctx.containerStates.noteEnd(row, { exitCode: UNKNOWN_EXIT, reason: 'Unknown', message: explain(error) });
        return 'lost';
      }
      // The exit is what the shim answers. What follows only adds to it, and its failure changes neither code nor
      // state.
      const oom = await this.#bestEffort(row, 'looking for an OOM kill', () => this.#wasOutOfMemory(row, exit));
      await this.#bestEffort(row, 'draining its log', () => ctx.stdio.drain(row.id));
      if (ctx.ending.aborted) return 'closing'; // the log may not be complete; the next daemon drains it
      const reason = oom ? OOM_KILLED : exit.exitStatus === 0 ? 'Completed' : 'Error';
      ctx.containerStates.noteEnd(row, { exitCode: exit.exitStatus, reason, message: '', at: exit.at });
      return shim;
    }
  }

  /**
   * Runs what belongs to a container's end but must not keep it from being recorded. A failure is logged; the result is
   * undefined then.
   */
  async #bestEffort<T>(row: ContainerRow, what: string, work: () => Promise<T>): Promise<T | undefined> {
    try {
      return await work();
    } catch (error) {
      if (!this.#ctx.ending.aborted)
        this.#ctx.log.warn({ container: row.id, reason: explain(error) }, `at a container’s end, ${what} failed`);
      return undefined;
    }
  }

  /**
   * After the connection to the shim broke: the shim, or undefined when it is dead and its container has been cleaned
   * up.
   */
  async #findAgain(row: ContainerRow): Promise<Shim | undefined> {
    const ctx = this.#ctx;
    for (;;) {
      const sandbox = ctx.store.sandboxes.get(row.sandbox);
      if (!sandbox?.shim || sandbox.shimEnded || ctx.ending.aborted) return undefined;
      const found = await ctx.shims.reattach(sandbox.id, sandbox.shim);
      if (found.state === 'alive') return found.shim;
      if (found.state === 'dead') {
        try {
          await cleanUpContainer(row, sandbox, ctx);
        } catch (error) {
          ctx.log.error({ container: row.id, reason: explain(error) }, 'the clean-up after a dead shim failed');
        }
        return undefined;
      }
      await sleep(LOOK_AGAIN_MS, undefined, { ref: false });
    }
  }

  /**
   * True by the shim's event, or by the cgroup's own count, which must be read before the task and its cgroup are
   * deleted. systemd removes an empty scope sooner than that, and mostly before the shim has read it: then the kernel's
   * log decides.
   */
  async #wasOutOfMemory(row: ContainerRow, { exitStatus }: Exit): Promise<boolean> {
    const watched = this.#containers.get(row.id);
    if (watched?.outOfMemory) return true;
    if (exitStatus !== SIGKILLED) return false;
    const { id, cgroupsPath, pid, createdAt } = row;
    const { shim } = this.#ctx.pools;
    const kills = await shim.call('oomKills', { cgroupsPath, pid });
    if (kills !== undefined) return kills > 0n;
    if (watched?.killed) return false;
    // Negative where the wall clock was set back since: the kill was a moment ago in any case.
    const age = nowNs() - createdAt;
    const sinceUs = Number((process.hrtime.bigint() - (age > 0n ? age : 0n)) / 1000n);
    return (await shim.call('oomKillLogged', { name: id, pid, sinceUs })) ?? false;
  }
}

function exitKind(status: number, reason: string): 'zero' | 'nonzero' | 'signal' | 'oom' {
  if (reason === OOM_KILLED) return 'oom';
  if (status === 0) return 'zero';
  return status > 128 && status < 128 + 65 ? 'signal' : 'nonzero';
}
