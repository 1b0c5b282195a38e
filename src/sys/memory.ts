import { readFileSync } from 'node:fs';
import { check, libc } from './libc.ts';
import { garbageCollector } from './v8-options.ts';

let collect: ReturnType<typeof garbageCollector> | undefined;

/**
 * Collects the garbage of this thread and gives the pages of its heap back. V8 shrinks a heap only as long as its
 * thread allocates: one that is idle after a storm keeps what the storm took. Some 20 ms, in a task of its own.
 */
export async function shrinkHeap(): Promise<void> {
  collect ??= garbageCollector();
  await collect({ type: 'major', execution: 'async', flavor: 'last-resort' });
}

/**
 * malloc_trim(3): the kernel gets back what the allocator has kept for later, in all arenas. It holds one arena's lock
 * at a time, for some milliseconds. True when there was anything.
 */
export function trimMemory(): boolean {
  return libc.mallocTrim(0) !== 0;
}

const MADV_DONTNEED = 4;
/** The first line of a mapping in /proc/<pid>/smaps: addresses, permissions, path. */
const MAPPING = /^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+ *(.*)$/;

/**
 * Takes the pages of Node's own file out of this process. The start needs 45 MiB of them (the snapshot, ICU, the
 * compiler, and 64 KiB around each page that is touched), and what comes after it 19. They stay in the page cache; one
 * that is needed again is mapped again, without the disk, in a microsecond. Returns the bytes that were mapped.
 */
export function unmapProgram(): number {
  let unmapped = 0;
  let mapping: { address: number; length: number; resident: number } | undefined;
  for (const line of readFileSync('/proc/self/smaps', 'latin1').split('\n')) {
    const [head, from = '', to = '', permissions = '', path] = MAPPING.exec(line) ?? [];
    if (head !== undefined) {
      const address = Number.parseInt(from, 16);
      const length = Number.parseInt(to, 16) - address;
      const own = path === process.execPath && !permissions.includes('w');
      mapping = own ? { address, length, resident: 0 } : undefined;
    }
    const [, field, kib] = /^(Rss|Anonymous): +(\d+) kB$/.exec(line) ?? [];
    if (!mapping || field === undefined) continue;
    if (field === 'Rss') mapping.resident = Number(kib) * 1024;
    // A page that was written to (by the linker, before it was made read-only) is nowhere else.
    else if (kib === '0') {
      check('madvise', libc.madvise(mapping.address, mapping.length, MADV_DONTNEED), process.execPath);
      unmapped += mapping.resident;
    }
  }
  return unmapped;
}
