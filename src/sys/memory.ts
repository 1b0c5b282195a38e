import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { libc } from './libc.ts';

type Collect = (options: { type: 'major'; execution: 'async'; flavor: 'last-resort' }) => Promise<void>;

let collect: Collect | undefined;

/**
 * Collects the garbage of this thread and gives the pages of its heap back. V8 shrinks a heap only as long as its
 * thread allocates: one that is idle after a storm keeps what the storm took. Some 20 ms, in a task of its own.
 */
export async function shrinkHeap(): Promise<void> {
  if (!collect) {
    setFlagsFromString('--expose-gc'); // for contexts that are made from now on
    collect = runInNewContext('gc') as Collect;
    // Compiled code is only taken from a cache that was written with the same flags: threads that start later need it.
    setFlagsFromString('--no-expose-gc');
  }
  await collect({ type: 'major', execution: 'async', flavor: 'last-resort' });
}

/**
 * malloc_trim(3): the kernel gets back what the allocator has kept for later, in all arenas. It holds one arena's lock
 * at a time, for some milliseconds. True when there was anything.
 */
export function trimMemory(): boolean {
  return libc.mallocTrim(0) !== 0;
}
