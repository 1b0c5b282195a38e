import type { Stdio } from '../node/streaming/stdio.ts';
import type { Pools } from '../node/threads/pools.ts';
import type { Admission } from '../pipeline/engine/admission.ts';
import { shrinkHeap } from '../sys/memory.ts';
import { keepingWebAssembly } from '../sys/v8-options.ts';

export interface GiveBackOptions {
  admission: Pick<Admission, 'use' | 'admitted'>;
  /** Shrinks the heaps of all threads, then gives the allocator's free memory back to the kernel. */
  giveBack: () => Promise<unknown>;
  /** The latter alone, with the pages of the program that are mapped and not used. */
  trim: () => Promise<unknown>;
  /**
   * Threads that end by themselves some seconds after their last call. What they took stays with the allocator, and
   * what their start needed of the program stays mapped.
   */
  passingThreads: () => number;
  /** Calls that were answered since the start. */
  answered: () => number;
  onError: (error: unknown) => void;
  everyMs?: number;
}

const EVERY_MS = 2000;
/** Fewer jobs leave nothing worth a walk through the allocator's arenas. */
const STORM = 100;

/** Calls between two looks: more than a kubelet makes while nothing happens. */
const MANY_CALLS = 40;
/** Looks for which many calls put the collection off. */
const PATIENCE = 10;

/**
 * After a storm of jobs, once none has run or come for a while, the memory that it took is given back, and what threads
 * took that have ended; the start is a storm, too. V8 shrinks the heap of a thread only while it allocates, and glibc
 * keeps what was freed (buffers of sockets, of SQLite, of zlib) below its highest block in use. The collection takes
 * the main thread for 10 to 30 ms, and waits for a moment in which few calls come, 20 s at most.
 */
export function giveBackAfterStorms({
  admission,
  giveBack,
  trim,
  passingThreads,
  answered,
  onError,
  everyMs = EVERY_MS,
}: GiveBackOptions): Disposable {
  let before = admission.admitted - STORM;
  let last = admission.admitted;
  let untrimmed = false;
  let calls = answered();
  let patience = PATIENCE;
  const look = async () => {
    const { admitted } = admission;
    // A storm pauses between two waves, too.
    const idle = admitted === last && Object.values(admission.use).every(({ running }) => running === 0);
    last = admitted;
    const callsBefore = calls;
    calls = answered();
    const asked = calls - callsBefore >= MANY_CALLS;
    const passing = passingThreads() > 0;
    untrimmed ||= passing;
    if (!idle) return;
    if (admitted - before >= STORM) {
      if (asked && patience-- > 0) return;
      before = admitted;
      patience = PATIENCE;
      await giveBack();
    } else if (untrimmed && !passing) {
      untrimmed = false;
      await trim();
    }
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
  await trim(shim);
}

/** Gives back the allocator's free memory and the pages of the program that are mapped and not used. */
export const trim = (shim: Pools['shim']): Promise<void> => shim.call('trimMemory', null);
