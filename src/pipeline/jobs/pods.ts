import type { PodSandboxMetadata, RunPodSandboxRequest } from '../../../proto/gen/cri.ts';
import { explain, SluiceError } from '../../errors.ts';
import { sandboxName } from '../../node/oci/unique-names.ts';
import type { SandboxRow } from '../../node/store/sandbox.ts';
import { JobError } from '../engine/engine.ts';
import { type Caller, Joins } from '../engine/join.ts';
import type { JobRun, JobStart } from '../engine/observer.ts';
import type { Containers } from './containers.ts';
import type { JobServices } from './context.ts';
import { type PodPlan, planPod } from './plan-pod.ts';
import { launchPriority, PRIORITY } from './priority.ts';
import type { Pulls } from './pulls.ts';
import { removePod } from './tables/remove-pod.ts';
import { runPod } from './tables/run-pod.ts';
import { stopPod } from './tables/stop-pod.ts';

/** What a further caller of a launch in flight must see of it. */
interface Launch {
  runtimeHandler: string;
  job?: JobRun;
}

/** The jobs on pods: admission, join and locks around the tables in tables/. */
export class Pods {
  readonly #services: JobServices;
  readonly #containers: Containers;
  readonly #pulls: Pulls;
  readonly #launches: Joins<string, Launch>;

  constructor(services: JobServices, { containers, pulls }: { containers: Containers; pulls: Pulls }) {
    this.#services = services;
    this.#containers = containers;
    this.#pulls = pulls;
    const { ctx, runner } = services;
    this.#launches = new Joins({
      get claimTtlMs() {
        return ctx.config.pipeline.claim_ttl_seconds * 1000; // a reload changes it
      },
      unclaimed: ctx.unclaimed,
      exists: (id) => ctx.store.sandboxes.get(id) !== undefined,
      onJoin: ({ job }) => {
        if (job) runner.observer.jobJoined(job);
      },
      onUnclaimed: (name, id) => {
        ctx.log.warn({ sandbox: id, name }, 'no caller came back for this pod within claim_ttl; removing it');
        this.remove(id, {}).catch((error) =>
          ctx.log.error({ sandbox: id, err: error }, 'removing an unclaimed pod failed'),
        );
      },
    });
  }

  /** Launches a pod, or joins the launch of the same name, and returns the id. */
  async run(request: RunPodSandboxRequest, caller: Caller): Promise<string> {
    const { ctx } = this.#services;
    this.#refuseWhenFull(request);
    const plan = planPod(request, ctx);
    const { name, runtimeHandler } = plan.row;
    const inFlight = this.#launches.tag(name);
    if (inFlight && inFlight.runtimeHandler !== runtimeHandler) {
      throw new SluiceError(
        'NAME_TAKEN',
        `"${name}" is being launched with runtime handler "${inFlight.runtimeHandler}"`,
      );
    }
    const owner = ctx.sandboxNames.owner(name);
    if (owner !== undefined && !inFlight) {
      throw SluiceError.of('NAME_TAKEN', 'sandbox', name, owner);
    }
    const launch: Launch = { runtimeHandler };
    return this.#launches.run(name, caller, launch, (abandoned) => this.#launch(plan, launch, caller, abandoned));
  }

  /** A call that joins a launch takes no place in the queue; any other one is refused before it is planned. */
  #refuseWhenFull({ config }: RunPodSandboxRequest): void {
    const metadata = config?.metadata;
    if (!metadata) return; // planPod says what is wrong
    const name = sandboxName(metadata);
    if (this.#launches.has(name) || this.#services.ctx.sandboxNames.owner(name) !== undefined) return;
    this.#services.runner.refuseWhenFull({ job: 'RunPodSandbox', pod: podName(metadata) });
  }

  /** Ends a pod's processes and network. An unknown or stopped pod is fine. */
  async stop(id: string, caller: Caller): Promise<void> {
    const { ctx, runner, locks } = this.#services;
    const row = ctx.store.sandboxes.get(id);
    if (!row || row.state === 'stopped') return;
    const start = jobStart('StopPodSandbox', row, caller);
    const priority = PRIORITY.teardown;
    await runner.job({ start, priority, admit: { abandoned: caller.left } }, async (job) => {
      using _exclusive = await locks.take('pod', id, 'exclusive');
      if (!ctx.store.sandboxes.get(id) || stopped(row)) return;
      await runner.engine.run(stopPod, this.#stopState(row), job, priority);
    });
  }

  /** Removes a pod with its containers, stopping it first when it is not stopped. An unknown pod is fine. */
  async remove(id: string, caller: Caller): Promise<void> {
    const { ctx, runner, locks } = this.#services;
    const row = ctx.store.sandboxes.get(id);
    if (!row) return;
    const priority = PRIORITY.teardown;
    const start = jobStart('RemovePodSandbox', row, caller);
    await runner.job({ start, priority, admit: { abandoned: caller.left } }, async (job) => {
      using _exclusive = await locks.take('pod', id, 'exclusive');
      if (!ctx.store.sandboxes.get(id)) return;
      if (!stopped(row)) {
        const stop = { start: jobStart('StopPodSandbox', row, caller), priority };
        await runner.run(stopPod, this.#stopState(row), stop);
      }
      await this.#containers.removeAll(row.id);
      ctx.sandboxStates.removing(row);
      await runner.engine.run(removePod, { ctx, row }, job, priority);
      ctx.sandboxStates.removed(row);
    });
  }

  /**
   * Retries the undo of a pod that a failed undo, or a killed daemon, has left half-way. Its name is released at once.
   * The undo, and every other job on the pod, begins when `after` has resolved, which must not reject.
   */
  cleanUp(row: SandboxRow, reason: string, firstDelayMs?: number, after?: Promise<void>): void {
    const { ctx, runner, locks, retries } = this.#services;
    ctx.sandboxStates.cleanUpPending(row, reason);
    ctx.sandboxNames.release(row.name, row.id);
    ctx.log.warn({ sandbox: row.id, name: row.name, reason }, 'clean-up is pending and will be retried');
    const clean = async () => {
      using _exclusive = await locks.take('pod', row.id, 'exclusive');
      await after;
      if (!ctx.store.sandboxes.get(row.id)) return;
      await this.#containers.removeAll(row.id);
      await runner.undo(runPod, row, ctx, { ...jobStart('RunPodSandbox', row), origin: 'cleanup' });
      ctx.log.info({ sandbox: row.id, name: row.name }, 'pending clean-up is done');
    };
    const onFailure = (failed: string, attempts: number) => {
      ctx.sandboxStates.cleanUpPending(row, failed, attempts);
      ctx.log.warn({ sandbox: row.id, attempts, failed }, 'clean-up failed again');
    };
    retries.add(row.id, clean, onFailure, firstDelayMs);
  }

  async #launch({ row, runtime }: PodPlan, launch: Launch, caller: Caller, abandoned: AbortSignal): Promise<string> {
    const { ctx, runner, locks } = this.#services;
    const pull = (image: string) => this.#pulls.pull({ image }, {});
    const priority = launchPriority(row.config.metadata?.namespace ?? '');
    const start = jobStart('RunPodSandbox', row, caller);
    const onQueued = (job: JobRun) => {
      launch.job = job;
    };
    await runner.job({ start, priority, admit: { abandoned }, onQueued }, async (job) => {
      // A stop or removal by id waits for the end of the launch.
      using _exclusive = await locks.take('pod', row.id, 'exclusive');
      try {
        await runner.engine.run(runPod, { ctx, row, runtime, pull }, job, priority);
      } catch (error) {
        if (error instanceof JobError && error.stuck) this.cleanUp(row, explain(error.stuck));
        throw error;
      }
    });
    return row.id;
  }

  #stopState(row: SandboxRow) {
    return { ctx: this.#services.ctx, row, killContainers: () => this.#containers.killAll(row.id) };
  }
}

function stopped({ state }: SandboxRow): boolean {
  return state === 'stopped' || state === 'removing';
}

function jobStart(job: JobStart['job'], row: SandboxRow, { traceparent }: Caller = {}): JobStart {
  return { job, pod: podName(row.config.metadata ?? { name: '', namespace: '' }), sandbox: row.id, traceparent };
}

const podName = ({ namespace, name }: Pick<PodSandboxMetadata, 'namespace' | 'name'>) => `${namespace}/${name}`;
