import type { Stdio } from '../node/streaming/stdio.ts';
import type { Pools } from '../node/threads/pools.ts';
import type { Admission } from '../pipeline/engine/admission.ts';
import { keepingWebAssembly, shrinkHeap } from '../sys/memory.ts';

export interface GiveBackOptions {
  admission: Pick<Admission, 'use' | 'admitted'>;
  /** Shrinks the heaps of all threads, then gives the allocator's free memory back to the kernel. */
  giveBack: () => Promise<unknown>;
  onError: (error: unknown) => void;
  everyMs?: number;
}

const EVERY_MS = 2000;
/** Fewer jobs leave nothing worth a walk through the allocator's arenas. */
const STORM = 100;

/**
 * After a storm of jobs, once none has run or come for a while, the memory that it took is given back; the start is a
 * storm, too. V8 shrinks the heap of a thread only while it allocates, and glibc keeps what was freed (buffers
 * of sockets, of SQLite, of zlib) below its highest block in use.
 */
export function giveBackAfterStorms({ admission, giveBack, onError, everyMs = EVERY_MS }: GiveBackOptions): Disposable {
  let before = admission.admitted - STORM;
  let last = admission.admitted;
  const look = async () => {
    const { admitted } = admission;
    // A storm pauses between two waves, too.
    const idle = admitted === last && Object.values(admission.use).every(({ running }) => running === 0);
    last = admitted;
    if (!idle || admitted - before < STORM) return;
    before = admitted;
    await giveBack();
  };
  const timer = setInterval(() => void look().catch(onError), everyMs).unref();
  return { [Symbol.dispose]: () => clearInterval(timer) };
}

/**
 * Shrinks the heaps of the threads that jobs use, one kind after the other, and gives back the allocator's free memory
 * and the pages of the program that are mapped and not used.
 */
export async function giveBack({ pools: { net, shim }, stdio }: { pools: Pools; stdio: Stdio }): Promise<void> {
  await keepingWebAssembly(async () => {
    await shrinkHeap();
    await stdio.shrinkHeap();
    // As many calls as there are threads go one to each: a pool gives a call to the thread with the fewest.
    await Promise.all(Array.from({ length: net.use.threads }, () => net.call('shrinkHeap', null)));
    await Promise.all(Array.from({ length: shim.use.threads }, () => shim.call('shrinkHeap', null)));
  });
  await shim.call('trimMemory', null);
}
