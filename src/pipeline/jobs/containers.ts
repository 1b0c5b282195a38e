import PQueue from 'p-queue';
import type { CreateContainerRequest, LinuxContainerResources } from '../../../proto/gen/cri.ts';
import { codeOf, explain, SluiceError } from '../../errors.ts';
import { mergeResources, toLinuxResources } from '../../node/oci/resources.ts';
import type { ShimEvent } from '../../node/shims/events.ts';
import type { Shim } from '../../node/shims/shims.ts';
import type { ContainerRow, SandboxRow } from '../../node/store/rows.ts';
import type { Lane } from '../engine/admission.ts';
import { JobError } from '../engine/engine.ts';
import { type Caller, Joins } from '../engine/join.ts';
import type { JobRun } from '../engine/observer.ts';
import type { JobState, JobTable } from '../engine/stage.ts';
import type { Node } from './context.ts';
import { ended } from './ended.ts';
import { planContainer } from './plan-container.ts';
import { launchPriority, PRIORITY } from './priority.ts';
import { cleanUpContainer, findShim } from './shim-call.ts';
import { create, ioOf } from './stages/start-container.ts';
import { createContainer } from './tables/create-container.ts';
import { removeContainer } from './tables/remove-container.ts';
import { startContainer } from './tables/start-container.ts';
import { stopContainer } from './tables/stop-container.ts';
import { startFailed, undoStart, undoStartLater } from './undo-start.ts';

/** A caller of a job: how it stops waiting, and the trace it belongs to. */
export interface JobCaller extends Caller {
  traceparent?: string;
}

/**
 * In place of a caller: the job is part of one on the pod, which has been admitted. Were it to queue for a place of its own, the
 * pods of a drained node could hold all places and wait for each other for ever.
 */
const PART_OF_POD = Symbol('part of a job on the pod');

/** What a container's end is called when its shim died with it. */
const UNKNOWN_EXIT = 255;

/**
 * Containers of one pod that are killed at once. A shim hands exits to queues of 32 and deals with a container's end while it reads
 * none: with 25 ends at a time (and each has three runtimes that end besides) it stood still for a second per exit, up to ten.
 */
const KILLS_AT_ONCE = 4;

/** The jobs on containers. All share their pod's lock; what stops or removes the pod holds it alone. */
export class Containers {
  readonly #node: Node;
  readonly #creations: Joins<string>;

  constructor(node: Node) {
    this.#node = node;
    this.#creations = new Joins({
      claimTtlMs: node.config.pipeline.claim_ttl_seconds * 1000,
      isThere: (id) => node.store.containers.get(id) !== undefined,
      onUnclaimed: (name, id) => {
        node.log.warn({ container: id, name }, 'nobody came back for this container within claim_ttl; removing it');
        this.remove(id, {}).catch((err) =>
          node.log.error({ container: id, err }, 'removing an unclaimed container failed'),
        );
      },
    });
  }

  /** Creates a container, or joins its creation, and returns the id. */
  async create(request: CreateContainerRequest, caller: JobCaller): Promise<string> {
    const node = this.#node;
    const sandbox = node.store.sandboxes.find(request.podSandboxId);
    if (!sandbox) throw new SluiceError('SANDBOX_NOT_FOUND', `no pod sandbox has the id "${request.podSandboxId}"`);
    const row = planContainer(node, sandbox, request);
    // The name says which pod, but not which of its sandboxes: a container for the next one must not join one of the last.
    const key = `${row.name} in ${sandbox.id}`;
    const owner = node.containerNames.owner(row.name);
    if (owner !== undefined && !this.#creations.has(key)) {
      throw new SluiceError('NAME_TAKEN', `the container name "${row.name}" belongs to ${owner}`);
    }
    return this.#creations.run(key, caller, async (abandoned) => {
      using _together = await node.locks.take(sandbox.id, 'shared');
      readyPod(sandbox);
      await this.#job(createContainer, { node, row, sandbox }, 'launch', { ...caller, left: abandoned });
      return row.id;
    });
  }

  /**
   * Starts a created container. A failure leaves it exited, with reason StartError and the message: at once, or, when the start could
   * not be taken back, as soon as it can.
   */
  async start(id: string, caller: JobCaller): Promise<void> {
    const node = this.#node;
    const row = this.get(id);
    using _together = await node.locks.take(row.sandbox, 'shared');
    using _alone = await node.locks.take(row.id, 'exclusive');
    if (row.state !== 'created') {
      throw new SluiceError('NOT_READY', `container ${row.id} is ${row.state}, and only a created one can be started`);
    }
    const sandbox = node.store.sandboxes.get(row.sandbox);
    if (!sandbox) throw new SluiceError('SANDBOX_NOT_FOUND', `the pod of container ${row.id} is gone`);
    readyPod(sandbox);
    const shim = await findShim(sandbox, node);
    if (!shim) throw new SluiceError('SHIM_FAILED', `the shim of pod ${sandbox.id} is dead`);
    try {
      await this.#job(startContainer, { node, row, sandbox, shim }, 'launch', caller);
    } catch (error) {
      if (['QUEUE_FULL', 'CALLER_GONE', 'DEADLINE_PASSED', 'SHUTTING_DOWN'].includes(codeOf(error))) throw error;
      if (error instanceof JobError && error.stuck) undoStartLater(row, node, explain(error));
      else startFailed(row, node, explain(error));
      throw error;
    }
  }

  /**
   * Ends a container: stop signal, grace in seconds, SIGKILL. An unknown or ended one is fine. It holds no lock of the pod: what
   * comes meanwhile with less patience (another stop, the pod's) must not wait for this one's grace, and ends both.
   */
  async stop(id: string, graceSeconds: number, caller: JobCaller): Promise<void> {
    const row = this.#node.store.containers.get(id);
    if (!row) return;
    await this.#settleStart(row);
    await this.#stop(row, graceSeconds, caller);
  }

  /** Removes a container, killing it first when it runs. An unknown one is fine. */
  async remove(id: string, caller: JobCaller): Promise<void> {
    const row = this.#node.store.containers.get(id);
    if (!row) return;
    using _together = await this.#node.locks.take(row.sandbox, 'shared');
    await this.#remove(row, caller);
  }

  /**
   * Changes a container's limits in place: what is 0 or absent stays. A running one is changed by the runtime first; the bundle's
   * spec follows, so that a created one starts with them.
   */
  async update(
    id: string,
    asked: LinuxContainerResources | undefined,
    annotations: Record<string, string>,
  ): Promise<void> {
    const node = this.#node;
    const row = this.get(id);
    if (!asked) return;
    using _together = await node.locks.take(row.sandbox, 'shared');
    using _alone = await node.locks.take(row.id, 'exclusive');
    if (row.state === 'exited' || row.state === 'removing') return;
    const linux = row.config.linux ?? { resources: undefined, securityContext: undefined };
    const resources = mergeResources(linux.resources, asked);
    const oci = toLinuxResources(resources, node.host);
    if (row.state === 'running') {
      const { shim } = await this.running(row.id);
      await shim.task.update(row.id, oci, annotations);
    }
    await node.specs.update(row, (spec) => {
      spec.linux.resources = { ...spec.linux.resources, ...oci };
    });
    row.config = { ...row.config, linux: { ...linux, resources } };
    node.store.containers.put(row);
  }

  /** Kills all containers of a pod, a few at a time. The caller holds the pod's lock. */
  async killAll(sandbox: string): Promise<void> {
    const kill = async (row: ContainerRow) => {
      await this.#settleStart(row);
      await this.#stop(row, 0, PART_OF_POD);
      await this.#deleteTask(row);
    };
    const queue = new PQueue({ concurrency: KILLS_AT_ONCE });
    await queue.addAll(this.#node.store.containersOf(sandbox).map((row) => () => kill(row)));
  }

  /** Removes all containers of a pod, side by side. The caller holds the pod's lock. */
  async removeAll(sandbox: string): Promise<void> {
    await Promise.all(this.#node.store.containersOf(sandbox).map((row) => this.#remove(row, PART_OF_POD)));
  }

  /** The container with this id, or the only one whose id begins so. Throws CONTAINER_NOT_FOUND. */
  get(idOrPrefix: string): ContainerRow {
    const row = this.#node.store.containers.find(idOrPrefix);
    if (!row) throw new SluiceError('CONTAINER_NOT_FOUND', `no container has the id "${idOrPrefix}"`);
    return row;
  }

  /** A running container and the connection to the shim that runs it. Throws NOT_READY, CONTAINER_NOT_FOUND. */
  async running(id: string): Promise<{ row: ContainerRow; shim: Shim }> {
    const row = this.get(id);
    if (row.state !== 'running') throw new SluiceError('NOT_READY', `container ${row.id} is not running`);
    const sandbox = this.#node.store.sandboxes.get(row.sandbox);
    const shim = sandbox && (await findShim(sandbox, this.#node));
    if (!shim) throw new SluiceError('SHIM_FAILED', `the shim of container ${row.id} is dead`);
    return { row, shim };
  }

  /** After a restart: takes the names of what was there, before any job can ask for one. */
  recoverNames(): void {
    for (const row of this.#node.store.containers.values()) {
      if (row.state !== 'creating' && row.state !== 'removing') this.#node.containerNames.take(row.name, row.id);
    }
  }

  /** After a restart: finds a pod's containers again. Without a shim those that ran have ended, nobody knows how. */
  async recover(sandbox: string, shim: Shim | undefined): Promise<void> {
    for (const row of this.#node.store.containersOf(sandbox)) {
      try {
        await this.#recover(row, shim);
      } catch (error) {
        this.#node.log.error(
          { container: row.id, sandbox, reason: explain(error) },
          'the container could not be recovered',
        );
      }
    }
  }

  /** OOM kills come as events; a missed one shows in the cgroup when the container has ended. */
  onShimEvent(event: ShimEvent): void {
    if (event.kind === 'TaskOOM') this.#node.monitor.outOfMemory(event.event.containerId);
  }

  async #recover(row: ContainerRow, shim: Shim | undefined): Promise<void> {
    const node = this.#node;
    if (row.state === 'creating' || row.state === 'removing') {
      this.#cleanUp(row, `the daemon ended while the container was ${row.state}`, 0);
    } else if (row.state === 'starting') {
      undoStartLater(row, node, row.message || 'the daemon ended while the container was started', 0);
    } else if (row.state === 'running') {
      if (!shim) {
        const sandbox = node.store.sandboxes.get(row.sandbox);
        if (sandbox && !sandbox.shimEnded) await cleanUpContainer(row, sandbox, node);
        await node.stdio.removeIo({ id: row.id, fifos: row.io });
        const message = 'the shim died while no daemon watched';
        if (row.finishedAt !== 0n) node.monitor.recordEnd(row);
        else ended(row, node, { code: UNKNOWN_EXIT, reason: 'Unknown', message });
        return;
      }
      if (row.finishedAt === 0n) await node.stdio.openIo(ioOf(node, row));
      node.monitor.watchContainer(row, shim);
    }
  }

  /** Waits for a start under way. One that is over, but has not been taken back yet, is taken back now. Throws when that fails. */
  async #settleStart(row: ContainerRow): Promise<void> {
    if (row.state !== 'starting') return;
    using _alone = await this.#node.locks.take(row.id, 'exclusive');
    await undoStart(row, this.#node);
  }

  /** Deletes a task that could not be deleted when it ended. Throws when it still cannot be. */
  async #deleteTask(row: ContainerRow): Promise<void> {
    if (row.taskKept === undefined) return;
    await create.undo(row, this.#node);
    row.taskKept = undefined;
    this.#node.store.containers.put(row);
  }

  async #stop(row: ContainerRow, graceSeconds: number, caller: JobCaller | typeof PART_OF_POD): Promise<void> {
    if (row.state !== 'running') return;
    const sandbox = this.#node.store.sandboxes.get(row.sandbox);
    const shim = sandbox && (await findShim(sandbox, this.#node));
    await this.#job(stopContainer, { node: this.#node, row, shim, graceSeconds }, 'teardown', caller);
  }

  async #remove(row: ContainerRow, caller: JobCaller | typeof PART_OF_POD): Promise<void> {
    const node = this.#node;
    using _alone = await node.locks.take(row.id, 'exclusive');
    if (!node.store.containers.get(row.id)) return;
    await undoStart(row, node);
    await this.#stop(row, 0, caller);
    await this.#deleteTask(row);
    const before = row.state;
    row.state = 'removing';
    node.store.containers.put(row);
    try {
      await this.#job(removeContainer, { node, row }, 'teardown', caller);
    } catch (error) {
      row.state = before;
      node.store.containers.put(row);
      throw error;
    }
    node.cleaner.drop(row.id);
    node.events.publish('deleted', row.id, row.sandbox);
  }

  /** Runs a job through its lane of admission. It runs on when its caller leaves; a failed undo is kept and retried. */
  async #job<S extends JobState<ContainerRow>>(
    table: JobTable<S, ContainerRow>,
    state: S,
    lane: Lane,
    from: JobCaller | typeof PART_OF_POD,
  ): Promise<void> {
    const node = this.#node;
    const { row } = state;
    const caller = from === PART_OF_POD ? {} : from;
    const metadata = node.store.sandboxes.get(row.sandbox)?.config.metadata;
    const job = node.observer.jobQueued({
      job: table.name,
      pod: `${metadata?.namespace}/${metadata?.name}`,
      sandbox: row.sandbox,
      container: row.id,
      traceparent: caller.traceparent,
    });
    const priority = lane === 'teardown' ? PRIORITY.teardown : launchPriority(metadata?.namespace ?? '');
    try {
      const work = () => this.#run(table, state, job, priority);
      if (from === PART_OF_POD) await work();
      else await node.admission.run({ lane, priority, abandoned: caller.left }, work);
      node.observer.jobEnded(job, undefined);
    } catch (error) {
      node.observer.jobEnded(job, error as Error);
      throw error;
    }
  }

  async #run<S extends JobState<ContainerRow>>(
    table: JobTable<S, ContainerRow>,
    state: S,
    job: JobRun,
    priority: number,
  ): Promise<void> {
    this.#node.observer.jobStarted(job);
    try {
      await this.#node.engine.run(table, state, job, priority);
    } catch (error) {
      if (error instanceof JobError && error.stuck && table.name === 'CreateContainer')
        this.#cleanUp(state.row, explain(error.stuck));
      throw error;
    }
  }

  #cleanUp(row: ContainerRow, reason: string, firstDelayMs?: number): void {
    const node = this.#node;
    row.state = 'removing';
    row.cleanup = { failed: reason, attempts: row.cleanup?.attempts ?? 0 };
    node.store.containers.put(row);
    node.containerNames.release(row.name, row.id);
    const clean = async () => {
      using _alone = await node.locks.take(row.id, 'exclusive');
      if (!node.store.containers.get(row.id)) return;
      const job = node.observer.jobQueued({ job: 'CreateContainer', origin: 'cleanup', container: row.id });
      await node.engine.undo(createContainer, row, node, job);
      node.observer.jobEnded(job, undefined);
    };
    const onFailure = (failed: string, attempts: number) => {
      row.cleanup = { failed, attempts };
      node.log.warn({ container: row.id, attempts, failed }, 'clean-up failed again');
    };
    node.cleaner.add(row.id, clean, onFailure, firstDelayMs);
  }
}

function readyPod(sandbox: SandboxRow): void {
  if (sandbox.state !== 'ready')
    throw new SluiceError('NOT_READY', `pod ${sandbox.id} is not ready (${sandbox.state})`);
}
