import { libc } from './libc.ts';

/**
 * malloc_trim(3): the kernel gets back what the allocator has kept for later, in all arenas. It holds one arena's lock at a time, for
 * some milliseconds. True when there was anything.
 */
export function trimMemory(): boolean {
  return libc.mallocTrim(0) !== 0;
}
