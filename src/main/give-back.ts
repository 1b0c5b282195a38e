import type { Admission } from '../pipeline/engine/admission.ts';

export interface GiveBackOptions {
  admission: Pick<Admission, 'use' | 'admitted'>;
  /** Gives the allocator's free memory back to the kernel; not on main. */
  trim: () => Promise<unknown>;
  onError: (error: unknown) => void;
  everyMs?: number;
}

const EVERY_MS = 10_000;
/** Fewer jobs leave nothing worth a walk through the allocator's arenas. */
const STORM = 100;

/**
 * After a storm of jobs, once none runs, the memory that it took is given back. V8 shrinks its heaps by itself when a thread is idle;
 * glibc keeps what was freed (buffers of sockets, of SQLite, of zlib) below its highest block in use: 13 of 131 MiB after 300 pods.
 */
export function giveBackAfterStorms({ admission, trim, onError, everyMs = EVERY_MS }: GiveBackOptions): Disposable {
  let before = admission.admitted;
  const look = async () => {
    const idle = Object.values(admission.use).every(({ running }) => running === 0);
    if (!idle || admission.admitted - before < STORM) return;
    before = admission.admitted;
    await trim();
  };
  const timer = setInterval(() => void look().catch(onError), everyMs).unref();
  return { [Symbol.dispose]: () => clearInterval(timer) };
}
