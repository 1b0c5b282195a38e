/**
 * The shim of a sandbox without a process: it starts with the first container, or is shared with other such sandboxes.
 */
import { explain, SluiceError } from '../../errors.ts';
import { buildPinnedSpec } from '../../node/oci/pinned-spec.ts';
import type { Shim } from '../../node/shims/shims.ts';
import type { SandboxRow, ShimRow } from '../../node/store/sandbox.ts';
import { runtimeOf } from './context.ts';
import { cleanUpPodShim, findShim, removePodBundle, type ShimContext, startPodShim } from './pod-shim.ts';
import { shimWithRoom } from './shared-shims.ts';

/** Starts of pinned sandboxes' shims that are under way, by sandbox id. */
const starting = new Map<string, Promise<Shim>>();

/**
 * The shim of a pinned sandbox, started when there is none, or when it has died. Callers at the same time share one
 * start. Throws SHIM_FAILED or TIMED_OUT.
 */
export function pinnedShim(row: SandboxRow, ctx: ShimContext): Promise<Shim> {
  const running = starting.get(row.id);
  if (running) return running;
  const start = startPinnedShim(row, ctx).finally(() => starting.delete(row.id));
  starting.set(row.id, start);
  return start;
}

async function startPinnedShim(row: SandboxRow, ctx: ShimContext): Promise<Shim> {
  const { pinned } = row;
  if (!pinned) throw new SluiceError('INTERNAL', `sandbox ${row.id} is not pinned`);
  const alive = await findShim(row, ctx);
  if (alive) return alive;
  if (pinned.shimStarted) {
    // It died, or a start of it failed half-way.
    await cleanUpPodShim(row, ctx);
    await removePodBundle(row, ctx);
  }
  const runtime = runtimeOf(row, ctx);
  pinned.shimStarted = true;
  for (;;) {
    const found = shimWithRoom(row, runtime.pods_per_shim, ctx);
    const shared = found && (await joinShim(row, found, ctx));
    if (shared) return shared;
    const next = forming.get(row.runtime);
    if (found || !next || next.pods >= runtime.pods_per_shim) break;
    next.pods++;
    await next.started;
  }
  // Nothing is awaited from the look at `forming` to here: of pods that come at the same time one starts a shim.
  row.shim = undefined;
  ctx.store.sandboxes.update(row);
  const spec = buildPinnedSpec({ ...row, pinned, podAnnotations: runtime.pod_annotations });
  const start = startPodShim(row, runtime, JSON.stringify(spec), ctx);
  if (runtime.pods_per_shim > 1) announce(row.runtime, start);
  return start;
}

/** A shim that is being started for another pod of the runtime, and how many wait for it. */
interface Forming {
  pods: number;
  started: Promise<unknown>;
}

const forming = new Map<string, Forming>();

/** Lets pods that need a shim while one is being started wait for that one. A full one gives way to the next. */
function announce(runtime: string, start: Promise<Shim>): void {
  const forget = () => {
    if (forming.get(runtime) === own) forming.delete(runtime);
  };
  const own: Forming = { pods: 1, started: start.catch(() => {}).finally(forget) };
  forming.set(runtime, own);
}

/** Connects to a shim that has room for a further pod; undefined when it does not answer. */
async function joinShim(row: SandboxRow, found: ShimRow, ctx: ShimContext): Promise<Shim | undefined> {
  row.shim = found;
  ctx.store.sandboxes.update(row);
  try {
    return await ctx.shims.connect(row.id, found);
  } catch (error) {
    ctx.log.warn({ sandbox: row.id, reason: explain(error) }, 'a shared shim does not answer; the pod gets its own');
    return undefined;
  }
}
