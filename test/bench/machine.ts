/** On which machine something is measured, and beside how much other work. */
import { availableParallelism, cpus, loadavg, release, totalmem } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { machineCpuSeconds, run } from '../rig/proc.ts';

export function machine(): string {
  const model = cpus()[0]?.model.trim() ?? 'an unknown processor';
  return `machine: ${availableParallelism()} × ${model}, ${(totalmem() / 2 ** 30).toFixed(0)} GiB, Linux ${release()}`;
}

/** The first line that a program says of itself: its name and version. */
export async function versionOf(path: string): Promise<string> {
  return (await run(path, ['--version'])).stdout.split('\n', 1)[0] as string;
}

/** What the processors do while we do nothing, looked at for three seconds. */
export async function otherWork(): Promise<string> {
  const before = machineCpuSeconds();
  const began = performance.now();
  await sleep(3000);
  const busy = ((machineCpuSeconds() - before) * 1000) / (performance.now() - began);
  return `${busy.toFixed(2)} of ${availableParallelism()} processors, load average ${loadavg()[0]?.toFixed(1)}`;
}
