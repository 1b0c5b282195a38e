import type { RigDaemon, SluiceDaemon } from '../rig/daemon.ts';

const BUCKET = /^sluice_event_loop_delay_seconds_bucket\{le="([^"]+)"\} (\d+)$/gm;

/**
 * The p99 of the delay of main's event loop while `work` runs, in milliseconds: the upper bound of the bucket that it
 * falls into, so never too good. The daemon looks ten times a second, so the work should take some seconds.
 */
export async function loopDelayDuring(daemon: RigDaemon, work: () => Promise<unknown>): Promise<number> {
  const buckets = async () => {
    const text = await (daemon as SluiceDaemon).scrape();
    return new Map(
      [...text.matchAll(BUCKET)].map(([, le = '', count]) => [
        le === '+Inf' ? Number.POSITIVE_INFINITY : Number(le),
        Number(count),
      ]),
    );
  };
  const before = await buckets();
  await work();
  const counts = [...(await buckets())].map(([le, count]) => ({ le, count: count - (before.get(le) ?? 0) }));
  const looks = counts.at(-1)?.count ?? 0;
  if (looks === 0) throw new Error('the daemon has not looked at its event loop meanwhile');
  const le = counts.find(({ count }) => count >= 0.99 * looks)?.le ?? Number.NaN;
  return le * 1000;
}
