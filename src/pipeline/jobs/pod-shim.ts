import { codeOf, explain, SluiceError } from '../../errors.ts';
import type { RuntimeConfig } from '../../node/config/config.ts';
import { cgroupsPath } from '../../node/oci/cgroups-path.ts';
import { usernsRootOwner } from '../../node/oci/pod-userns.ts';
import type { Shim } from '../../node/shims/shims.ts';
import type { Task } from '../../node/shims/task.ts';
import type { ContainerRow } from '../../node/store/container.ts';
import type { SandboxRow } from '../../node/store/sandbox.ts';
import { SIGKILL } from '../../sys/signals.ts';
import type { DirectStart } from '../../workers/shim/direct.ts';
import { type JobContext, runtimeOf } from './context.ts';
import { runtimeOptions } from './runtime-options.ts';
import { leaveSharedShim } from './shared-shims.ts';

/**
 * containerd's namespace for Kubernetes. Root folders, not this name, keep our shims and runtimes apart from
 * containerd's.
 */
export const NAMESPACE = 'k8s.io';

/** Seconds that a shim may take until it answers; a loaded node takes one where an idle one takes 15 ms. */
const SHIM_START_SECONDS = 20;

/** What functions on shims use of the node. */
export type ShimContext = Omit<JobContext, 'exits' | 'stdio'>;

/** The arguments that every call of the shim's binary has. */
export function shimCall(ctx: ShimContext, id: string) {
  return { id, namespace: NAMESPACE, addresses: ctx.shimAddresses };
}

/**
 * The pod's shim, or undefined when it is dead. Throws SHIM_FAILED when it is neither: nothing may be done to a pod on
 * a guess.
 */
export async function findShim(row: SandboxRow, ctx: Pick<JobContext, 'shims'>): Promise<Shim | undefined> {
  if (!row.shim) return undefined;
  const found = await ctx.shims.reattach(row.id, row.shim);
  if (found.state === 'unknown') {
    throw new SluiceError('SHIM_FAILED', `the shim of pod ${row.id} is neither alive nor dead: ${found.reason}`);
  }
  return found.state === 'alive' ? found.shim : undefined;
}

/** Waits for an answer of the pod's shim, unless it is dead. Throws SHIM_FAILED or TIMED_OUT when it hangs. */
export async function probeShim(row: SandboxRow, ctx: Pick<JobContext, 'shims'>): Promise<void> {
  const shim = await findShim(row, ctx);
  if (shim) await ctx.shims.probe(shim);
}

/**
 * Writes the pod's bundle with `spec` (config.json, as text), starts its shim in it and waits for the first answer.
 * Throws SHIM_FAILED or TIMED_OUT.
 */
export async function startPodShim(
  row: SandboxRow,
  runtime: RuntimeConfig,
  spec: string,
  ctx: ShimContext,
): Promise<Shim> {
  const { directStarts } = ctx.shims;
  const direct = runtime.shim_start === 'auto' ? directStarts.eligible(runtime.shim) : undefined;
  try {
    return await startShim(row, runtime, spec, direct, ctx);
  } catch (error) {
    if (!direct || !directStarts.directFailed(direct)) throw error;
    ctx.log.warn(
      { sandbox: row.id, shim: direct.key, reason: explain(error) },
      'this shim cannot be started without its start command, which is used from now on',
    );
    await cleanUpPodShim(row, ctx);
    await removePodBundle(row, ctx);
    return startShim(row, runtime, spec, undefined, ctx);
  }
}

/** Starts the shim and waits for its first answer. */
async function startShim(
  row: SandboxRow,
  runtime: RuntimeConfig,
  spec: string,
  direct: DirectStart | undefined,
  ctx: ShimContext,
): Promise<Shim> {
  const timeoutMs = SHIM_START_SECONDS * 1000;
  const { child, spawnSeconds, key, ...started } = await ctx.pools.shim.call('startShim', {
    ...shimCall(ctx, row.id),
    bundle: row.bundle,
    binary: runtime.shim,
    group: usernsRootOwner(row.config)?.gid,
    spec,
    socketDir: ctx.shimSocketDir,
    timeoutMs,
    direct,
  });
  ctx.metrics.observe('spawn', { kind: 'shim' }, spawnSeconds);
  const { binary, address, version } = started;
  row.shim = { binary, address, version };
  ctx.store.sandboxes.update(row);
  const shim = await ctx.shims.connect(row.id, row.shim, { child, timeoutMs });
  if (child === undefined) ctx.shims.directStarts.commandSucceeded(runtime.shim, { key, version: shim.task.version });
  else if (direct) ctx.shims.directStarts.directSucceeded(direct);
  return shim;
}

/** Removes the pod's own bundle. */
export function removePodBundle(row: SandboxRow, ctx: ShimContext): Promise<void> {
  return ctx.pools.shim.call('removeBundle', { bundle: row.bundle, cgroupsPath: podCgroupsPath(row, ctx) });
}

/**
 * Undefined when the cgroup driver has been changed since the launch and has no cgroup by the parent's name. The pod
 * can be removed all the same.
 */
function podCgroupsPath({ id, config }: SandboxRow, ctx: ShimContext): string | undefined {
  try {
    return cgroupsPath(config.linux?.cgroupParent ?? '', id, ctx.host.cgroupDriver);
  } catch (error) {
    if (codeOf(error) === 'INVALID_REQUEST') return undefined;
    throw error;
  }
}

/**
 * Ends the pause task and the pod's shim, in whatever state their start left them: through the shim where it answers,
 * by its `delete` action where it is dead or dies meanwhile.
 */
export async function endPodShim(row: SandboxRow, ctx: ShimContext): Promise<void> {
  if (row.shimEnded) return;
  await endShim(row, ctx);
  row.shimEnded = true;
  ctx.store.sandboxes.update(row);
}

async function endShim(row: SandboxRow, ctx: ShimContext): Promise<void> {
  if (row.pinned && !row.pinned.shimStarted) return;
  if (leaveSharedShim(row, ctx)) return;
  const shim = await findShim(row, ctx);
  if (shim) {
    try {
      const known = await endTask(shim.task, { ...row, cgroupsPath: podCgroupsPath(row, ctx) }, ctx);
      await ctx.shims.shutdown(shim);
      // A `runc create` that a dead daemon asked for may still be under way; the shim does not list its task yet.
      if (known || row.pinned) return;
    } catch (error) {
      if (shim.open) throw error;
    }
  }
  await cleanUpPodShim(row, ctx);
}

/** The task of a container or of a pod's pause process, and where its processes are. */
export interface TaskOwner {
  id: string;
  /** Of the first process; 0 where it is not known. */
  pid: number;
  /** As in the OCI spec; undefined where it is not known. */
  cgroupsPath: string | undefined;
}

/**
 * Sends a signal to the first process of a task. The shim has the runtime do it, which cannot be run where the node has
 * no process number left, or its program is gone or broken: then the processes are signalled without it, SIGKILL all of
 * them. Gives false when there is no such process any more. Throws what the shim answered where that reaches nobody.
 */
export async function signalTask(task: Task, owner: TaskOwner, signal: number, ctx: ShimContext): Promise<boolean> {
  const { id, pid, cgroupsPath } = owner;
  try {
    return await task.kill(id, signal);
  } catch (error) {
    if (codeOf(error) !== 'RUNTIME_FAILED' || cgroupsPath === undefined) throw error;
    if (!(await ctx.pools.shim.call('signalContainer', { cgroupsPath, pid, signal }))) throw error;
    ctx.log.warn({ id, signal, reason: explain(error) }, 'signalled a container without its runtime, which failed');
    return true;
  }
}

/** Kills a task, waits for its end and deletes it. Returns false when the shim has no such task, which is fine. */
export async function endTask(task: Task, owner: TaskOwner, ctx: ShimContext): Promise<boolean> {
  if (await signalTask(task, owner, SIGKILL, ctx)) await task.wait(owner.id, '', 60_000);
  return (await task.delete(owner.id)) !== undefined;
}

/**
 * Kills and removes what a container has left in the runtime and in its cgroups. Only for a container without a shim:
 * the pod's shim is dead, or has answered that it has no such task. `swept`: its processes were looked for and killed
 * already.
 */
export async function cleanUpContainer(
  row: ContainerRow,
  sandbox: SandboxRow,
  ctx: ShimContext,
  { swept }: { swept?: boolean } = {},
): Promise<void> {
  await cleanUp(sandbox, ctx, { id: row.id, bundle: row.bundle, cgroupsPath: row.cgroupsPath, swept });
}

/** Kills and removes what the pod's shim, which must be dead or unusable, has left. */
export async function cleanUpPodShim(row: SandboxRow, ctx: ShimContext): Promise<void> {
  const { id, bundle, shim } = row;
  await cleanUp(row, ctx, {
    id,
    bundle,
    address: shim?.address,
    cgroupsPath: podCgroupsPath(row, ctx),
  });
  ctx.shims.forget(id);
}

async function cleanUp(
  sandbox: SandboxRow,
  ctx: ShimContext,
  left: { id: string; bundle: string; address?: string; cgroupsPath?: string; swept?: boolean },
): Promise<void> {
  const { id, bundle, address, cgroupsPath, swept } = left;
  const runtime = runtimeOf(sandbox, ctx);
  const { binary, root } = runtimeOptions(ctx, runtime);
  const { warnings } = await ctx.pools.shim.call('cleanupShim', {
    ...shimCall(ctx, id),
    bundle,
    binary: sandbox.shim?.binary ?? runtime.shim,
    runtime: { binary, root },
    address,
    swept,
  });
  if (cgroupsPath !== undefined) await ctx.pools.shim.call('removeCgroups', { cgroupsPath });
  if (warnings.length > 0) ctx.log.warn({ sandbox: sandbox.id, id, warnings }, 'cleaned up what no shim looks after');
}
