/**
 * The kernel's share of a pinned pod (floor.c), below which no launch can come.
 *
 *   node test/bench/floor.ts [--pods 200] [--threads 1,2]
 *
 * Runs in network and mount namespaces of its own, which end with it.
 */
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { privateFolder, program } from '../rig/paths.ts';
import { run } from '../rig/proc.ts';
import { machine, otherWork } from './machine.ts';

const { values: options } = parseArgs({
  options: { pods: { type: 'string', default: '200' }, threads: { type: 'string', default: '1,2' } },
});

if (process.getuid?.() !== 0) throw new Error('needs root: it makes namespaces');
const folder = privateFolder('sluice-floor');
try {
  const floor = join(folder, 'floor');
  await run(program('gcc'), ['-O2', '-Wall', '-o', floor, join(import.meta.dirname, 'floor.c'), '-lpthread']);
  console.log(`${machine()}\nother work: ${await otherWork()}`);
  const pods = join(folder, 'pods');
  mkdirSync(pods);
  // A sysfs of the new network namespace shows the ports of its bridge.
  const script = 'mount -t tmpfs floor "$4" && mount -t sysfs sysfs /sys && exec "$1" "$2" "$3" "$4"';
  for (const threads of options.threads.split(',')) {
    const args = ['--mount', '--net', 'sh', '-c', script, 'sh', floor, options.pods, threads, pods];
    const { stdout } = await run(program('unshare'), args);
    console.log(`${options.pods} pods, ${threads} thread${threads === '1' ? '' : 's'}\n${stdout.trimEnd()}`);
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
