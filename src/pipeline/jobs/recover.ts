import { join } from 'node:path';
import { explain } from '../../errors.ts';
import type { PinnedSandbox, SandboxRow } from '../../node/store/sandbox.ts';
import { namesIn } from '../../sys/folder.ts';
import { withTimeLimit } from '../../time-limit.ts';
import { usernsBundles } from './bundle-path.ts';
import type { Containers } from './containers.ts';
import type { JobContext } from './context.ts';
import type { Pods } from './pods.ts';

/** Milliseconds that one shim gets to answer when the daemon starts. */
const REATTACH_MS = 2000;
const LOOK_AGAIN_MS = 5000;
/** Milliseconds that plugins of the dead daemon get to end by themselves. */
const ABANDONED_MS = 2000;
/**
 * Milliseconds after which the daemon serves, while those that answer late are still being found: a hung shim takes all
 * of its two seconds.
 */
const SERVE_AFTER_MS = 500;

export interface Recovered {
  /** Pods found running. */
  alive: number;
  /** Pods whose shim is gone: NotReady until kubelet removes them. */
  dead: number;
  /** Neither: looked at again in the background, and not touched until then. */
  unknown: number;
  /** Half-made or half-removed: being cleaned up in the background. */
  undone: number;
}

interface Parts {
  ctx: JobContext;
  pods: Pods;
  containers: Containers;
}

/**
 * Finds the pods of an earlier daemon again, all at once and two seconds each at most. What it had half made, or half
 * removed, is undone by the same functions that undo a failed launch. No failure here keeps the daemon from starting.
 *
 * Resolves after half a second at the latest, with the rest going on: lists answer from the rows, and a job on a pod
 * whose shim was not found yet looks for it itself. `complete` resolves when every pod was looked for.
 */
export async function recover(parts: Parts): Promise<{ complete: Promise<Recovered> }> {
  const { ctx, pods, containers } = parts;
  const recovered: Recovered = { alive: 0, dead: 0, unknown: 0, undone: 0 };
  const rows = [...ctx.store.sandboxes.values()];
  for (const row of rows) if (!halfWay(row)) ctx.sandboxNames.take(row.name, row.id);
  containers.recoverNames();
  const ended = endAbandoned(rows, ctx);
  const one = async (row: SandboxRow) => {
    try {
      if (halfWay(row)) {
        pods.cleanUp(row, row.cleanup?.failed ?? `the daemon ended while the pod was ${row.state}`, 0, ended);
        recovered.undone++;
      } else if (row.state !== 'stopped') recovered[await find(row, parts)]++;
      else await containers.recover(row.id, undefined);
    } catch (error) {
      ctx.log.error({ sandbox: row.id, reason: explain(error) }, 'the pod could not be recovered');
    }
  };
  const complete = Promise.all(rows.map(one)).then(() => recovered);
  await withTimeLimit(complete, SERVE_AFTER_MS, () => {});
  return { complete };
}

/**
 * Ids of bundles without a row: of pods and containers that run on although the store and its copies were lost. What
 * they use (layers, namespaces, addresses) has no row either, and must not be taken for a leftover.
 */
export async function unknownBundles({ config, store }: Pick<JobContext, 'config' | 'store'>): Promise<string[]> {
  const known = (id: string) => store.sandboxes.get(id) ?? store.containers.get(id);
  const names = await Promise.all([join(config.state, 'bundles'), usernsBundles(config.state)].map(namesIn));
  return names.flat().filter((name) => !name.startsWith('.') && !known(name)); // a leading dot: it is being removed
}

/**
 * Releases addresses and namespaces that carry this daemon's mark but that no row names. Rows are written first, so
 * there should be none, and each one counts as a leak. A failure is logged; the next start tries again.
 */
export async function sweepNetwork(ctx: JobContext): Promise<void> {
  const rows = () => [...ctx.store.sandboxes.values()];
  try {
    const strays = await ctx.network.strays({
      hasSandbox: (id) => ctx.store.sandboxes.get(id) !== undefined,
      hasNetns: (path) => rows().some((row) => row.netns === path || row.userns === path),
    });
    for (const attachment of strays.unreleased) {
      // A row that still has its network is undone by its own job.
      if (!ctx.store.sandboxes.get(attachment.containerId)?.network) await ctx.network.del(attachment);
    }
    for (const attachment of strays.attachments) {
      await ctx.network.del(attachment);
      ctx.metrics.inc('leaks', { kind: 'address' });
      ctx.log.warn({ sandbox: attachment.containerId, network: attachment.network.name }, 'gave back a stray address');
    }
    for (const path of strays.netns) {
      await ctx.pools.net.call('removeNetns', { path });
      ctx.metrics.inc('leaks', { kind: 'netns' });
      ctx.log.warn({ netns: path }, 'removed a stray network namespace');
    }
  } catch (err) {
    ctx.log.error({ err }, 'looking for strays in the network failed');
  }
}

/**
 * Ends what the dead daemon left running for these pods. A plugin that finished its ADD after the DEL of the recovery
 * would leave an address and rules that nothing names. Never rejects: DEL waits for the record's lock besides.
 */
async function endAbandoned(rows: readonly SandboxRow[], ctx: JobContext): Promise<void> {
  if (rows.length === 0) return;
  try {
    const pods = rows.map(({ id }) => id);
    const { ended, killed } = await ctx.pools.shim.call('endAbandoned', { pods, graceMs: ABANDONED_MS });
    if (killed.length > 0) ctx.log.warn({ killed }, 'killed what an earlier daemon had left running');
    if (ended.length > 0) ctx.log.info({ ended }, 'what an earlier daemon had left running has ended');
  } catch (err) {
    ctx.log.error({ err }, 'looking for what an earlier daemon left running failed');
  }
}

const halfWay = (row: SandboxRow) => row.state === 'creating' || row.state === 'removing';

async function find(row: SandboxRow, parts: Parts): Promise<'alive' | 'dead' | 'unknown'> {
  const { ctx, containers } = parts;
  if (row.pinned) return findPinned(row, row.pinned, parts);
  const found = row.shim ? await ctx.shims.reattach(row.id, row.shim, REATTACH_MS) : ({ state: 'dead' } as const);
  if (found.state === 'alive') {
    ctx.exits.watchSandbox(row, found.shim);
    await containers.recover(row.id, found.shim);
  } else if (found.state === 'dead') {
    if (row.state === 'ready') {
      ctx.sandboxStates.notReady(row);
      ctx.log.warn({ sandbox: row.id, name: row.name }, 'the pod’s shim is dead');
    }
    await containers.recover(row.id, undefined);
  } else {
    return lookAgain(row, found.reason, parts);
  }
  return found.state;
}

/**
 * A pinned sandbox is ready as long as its namespaces exist, whatever has become of its shim: the next container starts
 * another.
 */
async function findPinned(row: SandboxRow, pinned: PinnedSandbox, parts: Parts): Promise<'alive' | 'dead' | 'unknown'> {
  const { ctx, containers } = parts;
  const found = row.shim ? await ctx.shims.reattach(row.id, row.shim, REATTACH_MS) : ({ state: 'dead' } as const);
  if (found.state === 'unknown') return lookAgain(row, found.reason, parts);
  await containers.recover(row.id, found.state === 'alive' ? found.shim : undefined);
  const path = row.netns || pinned.ipc;
  const exists =
    pinned.bootId === ctx.host.bootId &&
    (path === undefined || (await ctx.pools.net.call('namespaceExists', { path })));
  if (exists) return 'alive';
  if (row.state === 'ready') {
    ctx.sandboxStates.notReady(row);
    ctx.log.warn({ sandbox: row.id, name: row.name }, 'the pod’s namespaces are gone');
  }
  return 'dead';
}

/** Leaves a pod whose shim is neither alive nor dead as it is, and looks again later. */
function lookAgain(row: SandboxRow, reason: string, parts: Parts): 'unknown' {
  const { ctx } = parts;
  ctx.log.warn({ sandbox: row.id, name: row.name, reason: reason }, 'the pod’s shim does not answer; looking again');
  const again = async () => {
    if (ctx.ending.aborted || ctx.store.sandboxes.get(row.id) !== row) return;
    try {
      await find(row, parts);
    } catch (error) {
      ctx.log.error({ sandbox: row.id, reason: explain(error) }, 'looking for the pod again failed');
    }
  };
  setTimeout(again, LOOK_AGAIN_MS).unref();
  return 'unknown';
}
