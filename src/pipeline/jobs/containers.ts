import PQueue from 'p-queue';
import type { CreateContainerRequest, LinuxContainerResources } from '../../../proto/gen/cri.ts';
import { explain, SluiceError } from '../../errors.ts';
import { mergeResources, toLinuxResources } from '../../node/oci/resources.ts';
import type { Shim } from '../../node/shims/shims.ts';
import type { ContainerRow } from '../../node/store/container.ts';
import { JOBS, type JobName } from '../../stages.ts';
import { JobError } from '../engine/engine.ts';
import { type Caller, Joins } from '../engine/join.ts';
import type { JobRun } from '../engine/observer.ts';
import type { Entry } from '../engine/runner.ts';
import type { JobContext, JobServices } from './context.ts';
import { DeadContainers } from './dead-containers.ts';
import { startFailed, undoStart, undoStartLater } from './failed-start.ts';
import { getContainer, getSandbox, requireReady, runningContainer } from './lookup.ts';
import { pinnedShim } from './pinned-shim.ts';
import { planContainer } from './plan-container.ts';
import { findShim, probeShim } from './pod-shim.ts';
import { launchPriority, PRIORITY } from './priority.ts';
import { create, ioOf } from './stages/start-container.ts';
import { createContainer } from './tables/create-container.ts';
import { removeContainer } from './tables/remove-container.ts';
import { startContainer } from './tables/start-container.ts';
import { stopContainer } from './tables/stop-container.ts';

/** In place of a caller: the job is part of one on the pod, which has been admitted (see {@link Entry.admit}). */
const PART_OF_POD = Symbol('part of a job on the pod');

/**
 * Containers of one pod that are killed at once. A shim hands exits to queues of 32 and reads none while it handles a
 * container's end: with 25 ends at a time (and each has three runtimes that end besides) it stood still for a second
 * per exit, up to ten.
 */
const KILLS_AT_ONCE = 4;

/** The jobs on containers. All share their pod's lock; a job that stops or removes the pod holds it exclusively. */
export class Containers {
  readonly #services: JobServices;
  readonly #ctx: JobContext;
  readonly #creations: Joins<string, undefined>;
  readonly #dead: DeadContainers;

  constructor(services: JobServices) {
    const { ctx } = services;
    this.#services = services;
    this.#ctx = ctx;
    this.#dead = new DeadContainers(services);
    this.#creations = new Joins({
      get claimTtlMs() {
        return ctx.config.pipeline.claim_ttl_seconds * 1000; // a reload changes it
      },
      unclaimed: ctx.unclaimed,
      exists: (id) => ctx.store.containers.get(id) !== undefined,
      onUnclaimed: (name, id) => {
        ctx.log.warn({ container: id, name }, 'no caller came back for this container within claim_ttl; removing it');
        this.remove(id, {}).catch((err) =>
          ctx.log.error({ container: id, err }, 'removing an unclaimed container failed'),
        );
      },
    });
  }

  /** Creates a container, or joins its creation, and returns the id. */
  async create(request: CreateContainerRequest, caller: Caller): Promise<string> {
    const ctx = this.#ctx;
    const sandbox = getSandbox(request.podSandboxId, ctx);
    const row = planContainer(request, sandbox, ctx);
    // The name contains the pod, but not which of its sandboxes: a container for the next one must not join one of the
    // last.
    const key = `${row.name} in ${sandbox.id}`;
    const owner = ctx.containerNames.owner(row.name);
    if (owner !== undefined && !this.#creations.has(key)) {
      throw SluiceError.of('NAME_TAKEN', 'container', row.name, owner);
    }
    return this.#creations.run(key, caller, undefined, async (abandoned) => {
      const entry = this.#entry('CreateContainer', row, { ...caller, left: abandoned });
      await this.#services.runner.job(entry, async (job) => {
        using _shared = await this.#services.locks.take('pod', sandbox.id, 'shared');
        requireReady(sandbox);
        try {
          await this.#services.runner.engine.run(createContainer, { ctx, row, sandbox }, job, entry.priority);
        } catch (error) {
          if (error instanceof JobError && error.stuck) this.#cleanUp(row, explain(error.stuck));
          throw error;
        }
      });
      return row.id;
    });
  }

  /**
   * Starts a created container. A failure leaves it exited, with reason StartError and the message: at once, or, when
   * the start could not be undone, as soon as it can.
   */
  async start(id: string, caller: Caller): Promise<void> {
    const ctx = this.#ctx;
    const row = this.get(id);
    const pod = ctx.store.sandboxes.get(row.sandbox);
    if (pod) await probeShim(pod, ctx); // before the job takes a place
    const entry = this.#entry('StartContainer', row, caller);
    await this.#services.runner.job(entry, async (job) => {
      using _shared = await this.#services.locks.take('pod', row.sandbox, 'shared');
      using _exclusive = await this.#services.locks.take('container', row.id, 'exclusive');
      if (row.state !== 'created') {
        const message = `container ${row.id} is ${row.state}, and only a created one can be started`;
        throw new SluiceError('NOT_READY', message);
      }
      const sandbox = ctx.store.sandboxes.get(row.sandbox);
      if (!sandbox) throw new SluiceError('SANDBOX_NOT_FOUND', `the pod of container ${row.id} is gone`);
      requireReady(sandbox);
      const shim = sandbox.pinned ? await pinnedShim(sandbox, ctx) : await findShim(sandbox, ctx);
      if (!shim) throw new SluiceError('SHIM_FAILED', `the shim of pod ${sandbox.id} is dead`);
      try {
        await this.#services.runner.engine.run(startContainer, { ctx, row, sandbox, shim }, job, entry.priority);
      } catch (error) {
        if (error instanceof JobError && error.stuck) undoStartLater(row, this.#services, explain(error));
        else startFailed(row, this.#services, explain(error));
        throw error;
      }
    });
  }

  /**
   * Ends a container: stop signal, grace in seconds, SIGKILL. An unknown or ended one is fine. It holds no lock of the
   * pod: a job with less patience (another stop, the pod's) must not wait for this one's grace, and ends both.
   */
  async stop(id: string, graceSeconds: number, caller: Caller): Promise<void> {
    const row = this.#ctx.store.containers.get(id);
    if (!row) return;
    await this.#settleStart(row);
    await this.#stop(row, graceSeconds, caller);
  }

  /** Removes a container, killing it first when it runs. An unknown one is fine. */
  async remove(id: string, caller: Caller): Promise<void> {
    const row = this.#ctx.store.containers.get(id);
    if (!row) return;
    await this.#services.runner.job(this.#entry('RemoveContainer', row, caller), async (job) => {
      using _shared = await this.#services.locks.take('pod', row.sandbox, 'shared');
      await this.#remove(row, job);
    });
  }

  /**
   * Changes a container's limits in place: what is 0 or absent stays. The runtime changes a running one first; the
   * bundle's spec follows, so that a created one starts with them.
   */
  async update(
    id: string,
    asked: LinuxContainerResources | undefined,
    annotations: Record<string, string>,
  ): Promise<void> {
    const ctx = this.#ctx;
    const row = this.get(id);
    if (!asked) return;
    using _shared = await this.#services.locks.take('pod', row.sandbox, 'shared');
    using _exclusive = await this.#services.locks.take('container', row.id, 'exclusive');
    if (row.state === 'exited' || row.state === 'removing') return;
    const linux = row.config.linux ?? { resources: undefined, securityContext: undefined };
    const resources = mergeResources(linux.resources, asked);
    const oci = toLinuxResources(resources, ctx.host);
    if (row.state === 'running') {
      const { shim } = await this.running(row.id);
      await shim.task.update(row.id, oci, annotations);
    }
    await ctx.specs.update(row, (spec) => {
      spec.linux.resources = { ...spec.linux.resources, ...oci };
    });
    row.config = { ...row.config, linux: { ...linux, resources } };
    ctx.store.containers.update(row);
  }

  /** Kills all containers of a pod, a few at a time. The caller holds the pod's lock. */
  async killAll(sandbox: string): Promise<void> {
    const kill = async (row: ContainerRow) => {
      await this.#settleStart(row);
      await this.#stop(row, 0, PART_OF_POD);
      await this.#deleteTask(row);
    };
    const queue = new PQueue({ concurrency: KILLS_AT_ONCE });
    await queue.addAll(this.#ctx.store.containersOf(sandbox).map((row) => () => kill(row)));
  }

  /** Removes all containers of a pod, side by side. The caller holds the pod's lock. */
  async removeAll(sandbox: string): Promise<void> {
    await Promise.all(
      this.#ctx.store
        .containersOf(sandbox)
        .map((row) =>
          this.#services.runner.job(this.#entry('RemoveContainer', row, PART_OF_POD), (job) => this.#remove(row, job)),
        ),
    );
  }

  /** See {@link getContainer}. */
  get(idOrPrefix: string): ContainerRow {
    return getContainer(idOrPrefix, this.#ctx);
  }

  /** See {@link runningContainer}. */
  running(id: string): Promise<{ row: ContainerRow; shim: Shim }> {
    return runningContainer(id, this.#ctx);
  }

  /** After a restart: reserves the names of what exists, before any job can ask for one. */
  recoverNames(): void {
    for (const row of this.#ctx.store.containers.values()) {
      if (row.state !== 'creating' && row.state !== 'removing') this.#ctx.containerNames.take(row.name, row.id);
    }
  }

  /**
   * After a restart: finds a pod's containers again. Without a shim those that ran have ended, with an unknown exit
   * code; they are cleaned up in the background.
   */
  async recover(sandbox: string, shim: Shim | undefined): Promise<void> {
    for (const row of this.#ctx.store.containersOf(sandbox)) {
      try {
        await this.#recover(row, shim);
      } catch (error) {
        this.#ctx.log.error(
          { container: row.id, sandbox, reason: explain(error) },
          'the container could not be recovered',
        );
      }
    }
  }

  async #recover(row: ContainerRow, shim: Shim | undefined): Promise<void> {
    const ctx = this.#ctx;
    if (row.state === 'creating' || row.state === 'removing') {
      this.#cleanUp(row, `the daemon ended while the container was ${row.state}`, 0);
    } else if (row.state === 'starting') {
      undoStartLater(row, this.#services, row.message || 'the daemon ended while the container was started', 0);
    } else if (row.state === 'running') {
      if (shim) {
        // First the log, so that the output of a container that has ended meanwhile is drained into it.
        if (row.finishedAt === 0n) await this.#reopenIo(row);
        if (!ctx.exits.watches(row.id)) ctx.exits.watchContainer(row, shim);
        return;
      }
      this.#dead.add(row);
    }
  }

  /**
   * Opens a recovered container's FIFOs and log. A failure is retried: the container runs on, and its output waits in
   * the FIFOs.
   */
  async #reopenIo(row: ContainerRow): Promise<void> {
    const ctx = this.#ctx;
    const open = async () => {
      if (row.state === 'running' && row.finishedAt === 0n) await ctx.stdio.openIo(ioOf(row, ctx));
    };
    try {
      await open();
    } catch (error) {
      const failed = (reason: string, attempts: number) =>
        ctx.log.warn({ container: row.id, attempts, reason }, 'the log of a recovered container cannot be opened yet');
      failed(explain(error), 0);
      this.#services.retries.add(`io of ${row.id}`, open, failed);
    }
  }

  /** Waits for a start under way, and undoes one that is over and has left something. Rejects when that fails. */
  async #settleStart(row: ContainerRow): Promise<void> {
    if (row.state !== 'starting') return;
    using _exclusive = await this.#services.locks.take('container', row.id, 'exclusive');
    await undoStart(row, this.#services);
  }

  /** Deletes a task that could not be deleted when it ended. Rejects when it still cannot be. */
  async #deleteTask(row: ContainerRow): Promise<void> {
    if (row.taskKept === undefined) return;
    await create.undo(row, this.#ctx);
    row.taskKept = undefined;
    this.#ctx.store.containers.update(row);
  }

  async #stop(row: ContainerRow, graceSeconds: number, caller: Caller | typeof PART_OF_POD): Promise<void> {
    if (row.state !== 'running') return;
    const sandbox = this.#ctx.store.sandboxes.get(row.sandbox);
    const shim = sandbox && (await findShim(sandbox, this.#ctx));
    const entry = this.#entry('StopContainer', row, caller);
    await this.#services.runner.run(stopContainer, { ctx: this.#ctx, row, shim, graceSeconds }, entry);
  }

  async #remove(row: ContainerRow, job: JobRun): Promise<void> {
    const ctx = this.#ctx;
    const { locks, retries, runner } = this.#services;
    using _exclusive = await locks.take('container', row.id, 'exclusive');
    if (!ctx.store.containers.get(row.id)) return;
    await undoStart(row, this.#services);
    await this.#stop(row, 0, PART_OF_POD);
    await this.#deleteTask(row);
    const before = ctx.containerStates.removing(row);
    try {
      await runner.engine.run(removeContainer, { ctx, row }, job, PRIORITY.teardown);
    } catch (error) {
      ctx.containerStates.notRemoved(row, before);
      throw error;
    }
    retries.drop(row.id);
    ctx.containerStates.removed(row);
  }

  /**
   * How a job on a container enters the pipeline: through the lane of its row in src/stages.ts. Jobs take the pod's
   * lock once they are admitted, never before: a stop of the pod would wait with them for a place among the launches.
   */
  #entry(job: JobName, row: ContainerRow, from: Caller | typeof PART_OF_POD): Entry {
    const caller = from === PART_OF_POD ? {} : from;
    const metadata = this.#ctx.store.sandboxes.get(row.sandbox)?.config.metadata;
    const teardown = JOBS[job].lane === 'teardown';
    return {
      start: {
        job,
        pod: `${metadata?.namespace}/${metadata?.name}`,
        sandbox: row.sandbox,
        container: row.id,
        traceparent: caller.traceparent,
      },
      priority: teardown ? PRIORITY.teardown : launchPriority(metadata?.namespace ?? ''),
      admit: from === PART_OF_POD ? undefined : { abandoned: caller.left },
    };
  }

  /**
   * Retries the undo of a container that a failed undo, or a killed daemon, has left half-way. Its name is released at
   * once.
   */
  #cleanUp(row: ContainerRow, reason: string, firstDelayMs?: number): void {
    const ctx = this.#ctx;
    const { locks, retries, runner } = this.#services;
    ctx.containerStates.cleanUpPending(row, reason);
    ctx.containerNames.release(row.name, row.id);
    const clean = async () => {
      using _exclusive = await locks.take('container', row.id, 'exclusive');
      if (!ctx.store.containers.get(row.id)) return;
      const start = { job: 'CreateContainer', origin: 'cleanup', sandbox: row.sandbox, container: row.id } as const;
      await runner.undo(createContainer, row, ctx, start);
    };
    const onFailure = (failed: string, attempts: number) => {
      ctx.containerStates.cleanUpPending(row, failed, attempts);
      ctx.log.warn({ container: row.id, attempts, failed }, 'clean-up failed again');
    };
    retries.add(row.id, clean, onFailure, firstDelayMs);
  }
}
