import { readdir, readFile, stat } from 'node:fs/promises';

const startedAt = Date.now() / 1000 - process.uptime();
let limit: number | undefined;

/** Resource use of the process, all threads together: CPU time in seconds, memory in bytes, file descriptors. */
export async function processUse() {
  const openFds = await countFds();
  limit ??= await fdLimit();
  const memory = process.memoryUsage();
  const cpu = process.cpuUsage();
  return {
    cpuSeconds: (cpu.user + cpu.system) / 1e6,
    residentBytes: memory.rss,
    heapUsed: memory.heapUsed,
    heapTotal: memory.heapTotal,
    external: memory.external,
    openFds,
    maxFds: limit,
    startedAt,
  };
}

/**
 * Proportional set size (PSS) of the process, in bytes. Takes milliseconds, because the kernel walks all page tables.
 */
export async function proportionalBytes(): Promise<number> {
  const text = await readFile('/proc/self/smaps_rollup', 'latin1');
  return Number(/^Pss:\s+(\d+) kB/m.exec(text)?.[1] ?? 0) * 1024;
}

/**
 * Number of open file descriptors: from Linux 6.2 on the st_size of /proc/self/fd, before that the number of its
 * entries.
 */
async function countFds(): Promise<number> {
  const { size } = await stat('/proc/self/fd');
  return size > 0 ? size : (await readdir('/proc/self/fd')).length;
}

async function fdLimit(): Promise<number> {
  const soft = /^Max open files\s+(\S+)/m.exec(await readFile('/proc/self/limits', 'latin1'))?.[1];
  return soft === 'unlimited' ? Number.POSITIVE_INFINITY : Number(soft ?? 0);
}
