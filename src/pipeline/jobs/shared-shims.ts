/**
 * Which pods of a runtime share a shim (`pods_per_shim`). The store's rows are the truth: pods with one address share
 * one shim.
 */
import type { SandboxRow, ShimRow } from '../../node/store/sandbox.ts';
import type { JobContext } from './context.ts';

type ShareContext = Pick<JobContext, 'store' | 'shims'>;

/** Pods that are leaving their shim: the last one of them shuts it down, however many leave at the same time. */
const leaving = new Set<string>();

/**
 * A living shim with fewer than `most` pods of the same runtime; undefined when there is none. The caller stores it in
 * `row` before it awaits anything, so that the place is taken.
 */
export function shimWithRoom(row: SandboxRow, most: number, { store, shims }: ShareContext): ShimRow | undefined {
  if (most <= 1) return undefined;
  const groups = new Map<string, SandboxRow[]>();
  for (const other of store.sandboxes.values()) {
    if (!other.pinned || !other.shim || other.shimEnded || other.runtime !== row.runtime) continue;
    groups.set(other.shim.address, [...(groups.get(other.shim.address) ?? []), other]);
  }
  for (const members of groups.values()) {
    const host = members.find(({ id }) => !leaving.has(id) && shims.get(id));
    if (host?.shim && members.length < most) return { ...host.shim, leader: host.shim.leader ?? host.id };
  }
  return undefined;
}

/** The shims that the store knows, each with the number of its pods. */
export function podsByShim({ store }: Pick<JobContext, 'store'>): { runtime: string; leader: string; pods: number }[] {
  const shims = new Map<string, { runtime: string; leader: string; pods: number }>();
  for (const { id, runtime, shim, shimEnded } of store.sandboxes.values()) {
    if (!shim || shimEnded) continue;
    const known = shims.get(shim.address);
    if (known) known.pods++;
    else shims.set(shim.address, { runtime, leader: shim.leader ?? id, pods: 1 });
  }
  return [...shims.values()];
}

/**
 * Takes a pod, whose containers are gone, off its shim. Returns false when no other pod uses the shim, which then has
 * to be ended.
 */
export function leaveSharedShim(row: SandboxRow, { store, shims }: ShareContext): boolean {
  const { shim } = row;
  if (!row.pinned || !shim) return false;
  leaving.add(row.id);
  setImmediate(forgetGone, store);
  const others = [...store.sandboxes.values()].filter(
    (other) => other.shim?.address === shim.address && !other.shimEnded && !leaving.has(other.id),
  );
  if (others.length === 0) return false;
  shims.forget(row.id);
  return true;
}

/** Pods that have left, or are gone, need no mark any more. */
function forgetGone(store: JobContext['store']): void {
  for (const id of leaving) {
    const row = store.sandboxes.get(id);
    if (!row || row.shimEnded) leaving.delete(id);
  }
}
