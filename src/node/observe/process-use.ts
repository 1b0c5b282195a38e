import { readdir, readFile, stat } from 'node:fs/promises';

const startedAt = Date.now() / 1000 - process.uptime();
let limit: number | undefined;

/** What the daemon uses of the machine, all threads together: bytes, seconds, counts. */
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

/** Memory with shared pages divided among those who share them. Costs milliseconds: the kernel walks all page tables. */
export async function proportionalBytes(): Promise<number> {
  const text = await readFile('/proc/self/smaps_rollup', 'latin1');
  return Number(/^Pss:\s+(\d+) kB/m.exec(text)?.[1] ?? 0) * 1024;
}

/** Linux 6.2 and newer give the number of descriptors as the folder's size; older ones have to be asked for each. */
async function countFds(): Promise<number> {
  const { size } = await stat('/proc/self/fd');
  return size > 0 ? size : (await readdir('/proc/self/fd')).length;
}

async function fdLimit(): Promise<number> {
  const soft = /^Max open files\s+(\S+)/m.exec(await readFile('/proc/self/limits', 'latin1'))?.[1];
  return soft === 'unlimited' ? Number.POSITIVE_INFINITY : Number(soft ?? 0);
}
