import type { RunPodSandboxRequest } from '../../../proto/gen/cri.ts';
import { explain, SluiceError } from '../../errors.ts';
import type { RuntimeConfig } from '../../node/config/config.ts';
import type { SandboxRow } from '../../node/store/rows.ts';
import { JobError } from '../engine/engine.ts';
import { type Caller, Joins } from '../engine/join.ts';
import type { JobRun, JobStart } from '../engine/observer.ts';
import type { Node } from './context.ts';
import { observed } from './observed.ts';
import { planPod } from './plan-pod.ts';
import { launchPriority, PRIORITY } from './priority.ts';
import { removePod } from './tables/remove-pod.ts';
import { runPod } from './tables/run-pod.ts';
import { stopPod } from './tables/stop-pod.ts';

/** A caller of a job: how it stops waiting, and the trace it belongs to. */
export interface JobCaller extends Caller {
  traceparent?: string;
}

/** The jobs on pods: admission, join and locks around the tables in jobs/. */
export class Pods {
  readonly #node: Node;
  readonly #launches: Joins<string>;
  /** The launches in flight, by name: which runtime they are for, and the job that a joining caller is told of. */
  readonly #inFlight = new Map<string, { runtimeHandler: string; job: JobRun }>();

  constructor(node: Node) {
    this.#node = node;
    this.#launches = new Joins({
      claimTtlMs: node.config.pipeline.claim_ttl_seconds * 1000,
      isThere: (id) => node.store.sandboxes.get(id) !== undefined,
      onJoin: (name) => {
        const joined = this.#inFlight.get(name);
        if (joined) node.observer.jobJoined(joined.job);
      },
      onUnclaimed: (name, id) => {
        node.log.warn({ sandbox: id, name }, 'nobody came back for this pod within claim_ttl; removing it');
        this.remove(id, {}).catch((error) =>
          node.log.error({ sandbox: id, err: error }, 'removing an unclaimed pod failed'),
        );
      },
    });
  }

  /** Launches a pod, or joins the launch of the same name, and returns the id. */
  async run(request: RunPodSandboxRequest, caller: JobCaller): Promise<string> {
    const plan = planPod(this.#node, request);
    const { name } = plan.row;
    const inFlight = this.#inFlight.get(name);
    if (inFlight && inFlight.runtimeHandler !== plan.row.runtimeHandler) {
      throw new SluiceError(
        'NAME_TAKEN',
        `"${name}" is being launched with runtime handler "${inFlight.runtimeHandler}"`,
      );
    }
    const owner = this.#node.sandboxNames.owner(name);
    if (owner !== undefined && !this.#launches.has(name)) {
      throw new SluiceError('NAME_TAKEN', `the sandbox name "${name}" belongs to ${owner}`);
    }
    return this.#launches.run(name, caller, (abandoned) => this.#launch(plan, caller, abandoned));
  }

  /** Ends a pod's processes and network. An unknown or stopped pod is fine. */
  async stop(id: string, caller: JobCaller): Promise<void> {
    const row = this.#node.store.sandboxes.get(id);
    if (!row || row.state === 'stopped') return;
    using _alone = await this.#node.locks.take(id, 'exclusive');
    if (!this.#node.store.sandboxes.get(id) || this.#stopped(row)) return;
    await this.#teardown('StopPodSandbox', row, caller, async (job) => {
      await this.#node.engine.run(stopPod, { node: this.#node, row }, job, PRIORITY.teardown);
    });
  }

  /** Removes a pod with its containers, stopping it first when need be. An unknown pod is fine. */
  async remove(id: string, caller: JobCaller): Promise<void> {
    const node = this.#node;
    if (!node.store.sandboxes.get(id)) return;
    using _alone = await node.locks.take(id, 'exclusive');
    const row = node.store.sandboxes.get(id);
    if (!row) return;
    await this.#teardown('RemovePodSandbox', row, caller, async (job) => {
      if (!this.#stopped(row)) {
        const stop = node.observer.jobQueued({ ...jobStart('StopPodSandbox', row), traceparent: caller.traceparent });
        await observed(node, stop, () => node.engine.run(stopPod, { node, row }, stop, PRIORITY.teardown));
      }
      await node.containers.removeAll(row.id);
      row.state = 'removing';
      node.store.sandboxes.put(row);
      await node.engine.run(removePod, { node, row }, job, PRIORITY.teardown);
      node.events.publish('deleted', row.id, row.id);
    });
  }

  /** Keeps undoing a pod that a failed undo, or a daemon that died, has left half-way. It has no name any more. */
  cleanUp(row: SandboxRow, reason: string, firstDelayMs?: number): void {
    const node = this.#node;
    row.state = 'removing';
    row.cleanup = { failed: reason, attempts: row.cleanup?.attempts ?? 0 };
    node.store.sandboxes.put(row);
    node.sandboxNames.release(row.name, row.id);
    node.log.warn({ sandbox: row.id, name: row.name, reason }, 'clean-up is pending and will be retried');
    const clean = async () => {
      using _alone = await node.locks.take(row.id, 'exclusive');
      if (!node.store.sandboxes.get(row.id)) return;
      await node.containers.removeAll(row.id);
      const job = node.observer.jobQueued({ ...jobStart('RunPodSandbox', row), origin: 'cleanup' });
      await observed(node, job, () => node.engine.undo(runPod, row, node, job));
      node.log.info({ sandbox: row.id, name: row.name }, 'pending clean-up is done');
    };
    const onFailure = (failed: string, attempts: number) => {
      row.cleanup = { failed, attempts };
      node.store.sandboxes.put(row);
      node.log.warn({ sandbox: row.id, attempts, failed }, 'clean-up failed again');
    };
    node.cleaner.add(row.id, clean, onFailure, firstDelayMs);
  }

  #stopped(row: SandboxRow): boolean {
    return row.state === 'stopped' || row.state === 'removing';
  }

  async #launch(
    plan: { row: SandboxRow; runtime: RuntimeConfig },
    caller: JobCaller,
    abandoned: AbortSignal,
  ): Promise<string> {
    const node = this.#node;
    const { row, runtime } = plan;
    const priority = launchPriority(row.config.metadata?.namespace ?? '');
    const job = node.observer.jobQueued({ ...jobStart('RunPodSandbox', row), traceparent: caller.traceparent });
    this.#inFlight.set(row.name, { runtimeHandler: row.runtimeHandler, job });
    try {
      await node.admission.run({ lane: 'launch', priority, abandoned }, () =>
        this.#launchNow({ node, row, runtime }, job, priority),
      );
      node.observer.jobEnded(job, undefined);
      return row.id;
    } catch (error) {
      node.observer.jobEnded(job, error as Error);
      throw error;
    } finally {
      this.#inFlight.delete(row.name);
    }
  }

  async #launchNow(
    state: { node: Node; row: SandboxRow; runtime: RuntimeConfig },
    job: JobRun,
    priority: number,
  ): Promise<void> {
    this.#node.observer.jobStarted(job);
    try {
      await this.#node.engine.run(runPod, state, job, priority);
    } catch (error) {
      if (error instanceof JobError && error.stuck) this.cleanUp(state.row, explain(error.stuck));
      throw error;
    }
  }

  /** A stop or removal through the teardown lane; it runs on when its caller leaves. */
  async #teardown(
    name: 'StopPodSandbox' | 'RemovePodSandbox',
    row: SandboxRow,
    caller: JobCaller,
    work: (job: JobRun) => Promise<void>,
  ): Promise<void> {
    const node = this.#node;
    const job = node.observer.jobQueued({ ...jobStart(name, row), traceparent: caller.traceparent });
    const running = () => {
      node.observer.jobStarted(job);
      return work(job);
    };
    try {
      await node.admission.run({ lane: 'teardown', priority: PRIORITY.teardown, abandoned: caller.left }, running);
      node.observer.jobEnded(job, undefined);
    } catch (error) {
      node.observer.jobEnded(job, error as Error);
      throw error;
    }
  }
}

function jobStart(job: JobStart['job'], row: SandboxRow): JobStart {
  const { name, namespace } = row.config.metadata ?? { name: '', namespace: '' };
  return { job, pod: `${namespace}/${name}`, sandbox: row.id };
}
