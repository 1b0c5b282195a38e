/**
 * Looks from time to time for what the daemon has made and no row names, and counts each find once. Nothing is removed.
 */
import { findLeaks, nameOf, placesOf } from '../../node/leaks/leaks.ts';
import type { Places } from '../../workers/leaks/find.ts';
import type { JobContext } from './context.ts';

/** The scan reads all of /proc, the mount table and the cgroup tree: 20 ms of a worker with 100 pods. */
const EVERY_MS = 10 * 60_000;

type SweepContext = Pick<JobContext, 'config' | 'store' | 'pools' | 'metrics' | 'log' | 'ending'>;

/** Longer than what is released in the background, after its row is gone, takes. */
const SECOND_LOOK_MS = 10_000;

/** One look. Leaks that `known` has are not counted again. A failure is logged. */
export async function sweepLeaks(ctx: SweepContext, known: Set<string>, pauseMs = SECOND_LOOK_MS): Promise<void> {
  try {
    const owners = () => {
      const { sandboxes, containers } = ctx.store;
      const rows = [...sandboxes.values()];
      return {
        ids: new Set([
          ...[...rows, ...containers.values()].map(({ id }) => id),
          ...rows.flatMap(({ shim }) => shim?.leader ?? []),
        ]),
        netns: new Set(rows.flatMap(({ netns, userns }) => [netns, userns].filter((path) => path !== undefined))),
      };
    };
    const look = (places: Places) => ctx.pools.shim.call('findResources', places);
    const leaks = await findLeaks(placesOf(ctx.config), owners, look, pauseMs);
    const names = new Set(leaks.map(nameOf));
    for (const name of known) if (!names.has(name)) known.delete(name);
    for (const leak of leaks) {
      const name = nameOf(leak);
      if (known.has(name)) continue;
      known.add(name);
      ctx.metrics.inc('leaks', { kind: leak.kind });
      ctx.log.warn({ leak: name, owner: leak.owner }, 'no row names this: `sluice doctor --leaks --fix` removes it');
    }
  } catch (err) {
    ctx.log.error({ err }, 'looking for leaks failed');
  }
}

/** Sweeps until the daemon ends. */
export function sweepRegularly(ctx: SweepContext, everyMs = EVERY_MS): Disposable {
  const known = new Set<string>();
  let sweep = Promise.resolve();
  const timer = setInterval(() => {
    sweep = sweep.then(() => (ctx.ending.aborted ? undefined : sweepLeaks(ctx, known)));
  }, everyMs).unref();
  return { [Symbol.dispose]: () => clearInterval(timer) };
}
