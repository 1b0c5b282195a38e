/**
 * Gives back what is taken in the pods' network and belongs to no attachment: addresses that a power cut or another
 * program has left, rules of pods that are gone.
 */
import type { JobContext } from './context.ts';

const EVERY_MS = 60 * 60_000;

type GcContext = Pick<JobContext, 'config' | 'store' | 'network' | 'metrics' | 'log' | 'ending'>;

/**
 * One GC (specification 1.1, section 2). Each thing that is found counts as a leak of an address. A failure is logged.
 */
export async function collectNetworkGarbage(ctx: GcContext, how: { programs: boolean }): Promise<void> {
  if (!ctx.config.cni.gc) return;
  try {
    const attachments = () => [...ctx.store.sandboxes.values()].flatMap(({ network }) => network ?? []);
    for (const what of await ctx.network.gc(attachments, how)) {
      ctx.metrics.inc('leaks', { kind: 'address' });
      ctx.log.warn({ what }, 'gave back what no attachment owns');
    }
  } catch (err) {
    ctx.log.error({ err }, 'the garbage collection of the network failed');
  }
}

/** Once an hour until the daemon ends: in this process alone, since launches go on. */
export function collectRegularly(ctx: GcContext, everyMs = EVERY_MS): Disposable {
  const timer = setInterval(() => {
    if (!ctx.ending.aborted) void collectNetworkGarbage(ctx, { programs: false });
  }, everyMs).unref();
  return { [Symbol.dispose]: () => clearInterval(timer) };
}
