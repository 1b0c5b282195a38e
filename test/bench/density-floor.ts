/**
 * How a node that fills up slows down without a daemon: what `npm run bench:density` launches, by a launcher that does
 * only the shim's start, Create and Start of each container (launcher.ts). Namespaces, network, files, shm and bundles
 * of a hundred pods are made before they are launched, so that the kernel has the same mounts, links and cgroups.
 *
 *   node test/bench/density-floor.ts [--pods 500] [--parallel 16] [--containerd 2.4.2] [--runtime PATH|NAME]
 *     [--bound N] [--json FILE]
 *
 * Run in turns with the density benchmark: what it loses from the first to the last hundred is no daemon's. `--bound`
 * is how many of each of the three run at once: Sluice's default, or 0 for as many as come.
 */
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { cniAdd } from '../../src/workers/net/add.ts';
import { cniDel } from '../../src/workers/net/del.ts';
import { findProgram } from '../../src/workers/shim/program.ts';
import { containerdPrograms } from '../rig/build.ts';
import { removePods } from '../rig/cri.ts';
import type { SluiceDaemon } from '../rig/daemon.ts';
import { imageRegistry } from '../rig/images.ts';
import { mountsBelow } from '../rig/leftovers.ts';
import * as paths from '../rig/paths.ts';
import { cpuSeconds } from '../rig/proc.ts';
import { BOUND, Launcher, type PreparedPod, templateOf } from './launcher.ts';
import { phase } from './load.ts';
import { machine, otherWork } from './machine.ts';
import { warmUp } from './pods.ts';
import { startSide } from './sides.ts';

const { values: options } = parseArgs({
  options: {
    pods: { type: 'string', default: '500' },
    parallel: { type: 'string', default: '16' },
    containerd: { type: 'string', default: '2.4.2' },
    runtime: { type: 'string', default: 'runc' },
    bound: { type: 'string', default: String(BOUND) },
    json: { type: 'string' },
  },
});
const STEP = 100;
const INDEX = 7;

/** What is measured of the hundred that ends with this many pods. CPU in milliseconds of one pod. */
interface Sample {
  pods: number;
  podsPerSecond: number;
  /** Of the whole machine but this process; and of the shims with the runcs that they have started. */
  machineMs: number;
  shimMs: number;
  /** Of the containers' first processes: `runc init`, whose parent does not wait for it, and next to nothing after. */
  initMs: number;
  launcherMs: number;
  mountsPerPod: number;
}

async function fill(launcher: Launcher, folder: string, pods: number, parallel: number): Promise<Sample[]> {
  const samples: Sample[] = [];
  const all: PreparedPod[] = [];
  const before = mountsBelow(folder).length;
  for (let have = 0; have < pods; have += STEP) {
    const hundred = launcher.prepare(STEP);
    for (const pod of hundred) await cniAdd(pod.call);
    // As between the hundreds of the density benchmark: the kernel's work on new links is over.
    await sleep(2000);
    const own = process.cpuUsage();
    const launched = await phase(hundred, parallel, undefined, (pod) => launcher.run(pod));
    const { user, system } = process.cpuUsage(own);
    all.push(...hundred);
    const perPod = (pids: (number | undefined)[]) =>
      (pids.reduce((sum: number, pid) => sum + (pid ? cpuSeconds(pid) : 0), 0) * 1000) / STEP;
    samples.push({
      pods: all.length,
      podsPerSecond: launched.podsPerSecond,
      machineMs: launched.machineCpuMs,
      shimMs: perPod(hundred.map(({ child }) => child)),
      initMs: perPod(hundred.map(({ init }) => init)),
      launcherMs: (user + system) / 1000 / STEP,
      mountsPerPod: (mountsBelow(folder).length - before) / all.length,
    });
    process.stderr.write('.');
  }
  process.stderr.write('\n');
  await takeAway(launcher, all, parallel);
  return samples;
}

/** As many pods before the first hundred as warmUp() launches: code and caches are warm. */
async function warm(launcher: Launcher): Promise<void> {
  const pods = launcher.prepare(12);
  for (const pod of pods) await cniAdd(pod.call);
  await phase(pods, 4, undefined, (pod) => launcher.run(pod));
  await takeAway(launcher, pods, 4);
}

async function takeAway(launcher: Launcher, pods: readonly PreparedPod[], parallel: number): Promise<void> {
  await phase(pods, parallel, undefined, async (pod) => {
    await launcher.stop(pod);
    await cniDel(pod.call);
    await launcher.remove(pod);
  });
}

const COLUMNS: { name: string; of: (sample: Sample) => number }[] = [
  { name: 'pods per second', of: (sample) => sample.podsPerSecond },
  { name: 'CPU per pod, ms', of: (sample) => sample.machineMs },
  { name: 'shim, runc, ms', of: (sample) => sample.shimMs },
  { name: 'runc init, ms', of: (sample) => sample.initMs },
  { name: 'launcher, ms', of: (sample) => sample.launcherMs },
  { name: 'mounts per pod', of: (sample) => sample.mountsPerPod },
];

function table(samples: readonly Sample[]): string {
  const row = (cells: string[]) => cells.map((cell, i) => (i === 0 ? cell.padEnd(14) : cell.padStart(18))).join('');
  const [first, last] = [samples[0], samples.at(-1)];
  return [
    row(['pods', ...COLUMNS.map(({ name }) => name)]),
    ...samples.map((sample) => row([`${sample.pods}`, ...COLUMNS.map(({ of }) => of(sample).toFixed(2))])),
    ...(first && last ? [row(['last by first', ...COLUMNS.map(({ of }) => (of(last) / of(first)).toFixed(2))])] : []),
  ].join('\n');
}

async function main(): Promise<void> {
  if (process.getuid?.() !== 0) throw new Error('needs root: it makes namespaces');
  const [pods, parallel, bound] = [Number(options.pods), Number(options.parallel), Number(options.bound)];
  if (!Number.isInteger(pods / STEP) || pods < STEP || pods > 1000) {
    throw new Error(`--pods wants a multiple of ${STEP}, 1000 at most: a bridge has 1024 ports`);
  }
  if (!Number.isInteger(parallel) || parallel < 1) throw new Error('--parallel wants a number of 1 or more');
  if (!Number.isInteger(bound) || bound < 0) throw new Error('--bound wants a number, 0 for no bound');
  const { shim = paths.program('containerd-shim-runc-v2') } = await containerdPrograms(options.containerd);
  const runc = paths.program(options.runtime);
  console.log(`${machine()}\nother work before: ${await otherWork()}`);
  const folder = paths.privateFolder('sluice-floor');
  const registry = await imageRegistry(folder);
  try {
    const sandboxImage = 'registry.k8s.io/pause:3.10';
    // Its image and its cgroup are used; it does nothing meanwhile.
    await using daemon = await startSide('pinned', 0, { registry, shim, runc, sandboxImage });
    await warmUp(daemon, []);
    await removePods(daemon.cri);
    const template = await templateOf(daemon as SluiceDaemon, 'pinned');
    const own = { shim: await findProgram(shim, 'the shim'), runc };
    await using launcher = await Launcher.open(join(folder, 'f'), template, own, {
      index: INDEX,
      bound: bound || Number.POSITIVE_INFINITY,
      stateInMemory: true,
    });
    await warm(launcher);
    const samples = await fill(launcher, folder, pods, parallel);
    console.log(`other work after: ${await otherWork()}\n${table(samples)}`);
    if (options.json) writeFileSync(options.json, `${JSON.stringify({ samples }, undefined, 2)}\n`);
  } finally {
    await registry.stop();
    if (mountsBelow(folder).length === 0) rmSync(folder, { recursive: true, force: true });
  }
}

await main();
