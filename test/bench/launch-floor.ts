/**
 * What a pod with a pause process costs whoever launches it, or a pinned pod with its first container: the shim's
 * start, Create and Start, with everything else made in advance, by this process, beside Sluice and containerd. No
 * daemon that gives each pod a shim can be faster, so its ratios are those of one that takes no time at all.
 *
 *   node test/bench/launch-floor.ts [--of pause|container] [--rounds 2] [--pods 25] [--many N] [--parallel N]
 *     [--containerd 2.4.2|system] [--runtime runc|crun] [--cgroups-v1] [--bound N] [--sources]
 *
 * As in `npm run bench`, many pods are 96, 32 at once, and with containers 64, 16 at once.
 *
 * `--bound` is how many shims start at once, and how many are asked to create and to start: Sluice's default, or 0 for
 * as many as come.
 *
 * "with plugins beside" has the ADD of the reference plugins beside it, and their DEL beside the end of the task; "with
 * its network beside" the same without processes.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { cniAdd } from '../../src/workers/net/add.ts';
import { cniDel } from '../../src/workers/net/del.ts';
import { findProgram } from '../../src/workers/shim/program.ts';
import { containerdPrograms } from '../rig/build.ts';
import { removePods } from '../rig/cri.ts';
import type { RigDaemon, SluiceDaemon } from '../rig/daemon.ts';
import { imageRegistry } from '../rig/images.ts';
import { mountsBelow } from '../rig/leftovers.ts';
import * as paths from '../rig/paths.ts';
import { cpuSeconds } from '../rig/proc.ts';
import { withoutUnified } from './cgroups-v1.ts';
import { BOUND, Launcher, templateOf } from './launcher.ts';
import { favourClient, load, type Phase, phase } from './load.ts';
import { machine, otherWork } from './machine.ts';
import { cpuOf, launchPodAndContainer, pods as loadOf, warmUp } from './pods.ts';
import { releaseFor, SOURCES } from './release.ts';
import { type Common, SIDES, startSide } from './sides.ts';
import { median } from './statistics.ts';

const { values: options } = parseArgs({
  options: {
    of: { type: 'string', default: 'pause' },
    rounds: { type: 'string', default: '2' },
    pods: { type: 'string', default: '25' },
    many: { type: 'string' },
    parallel: { type: 'string' },
    containerd: { type: 'string', default: '2.4.2' },
    runtime: { type: 'string', default: 'runc' },
    'cgroups-v1': { type: 'boolean', default: false },
    bound: { type: 'string', default: String(BOUND) },
    sources: SOURCES,
  },
});
const INDEX = 7;
const CONTAINERS = options.of === 'container';
const MANY = Number(options.many ?? (CONTAINERS ? 64 : 96));
const PARALLEL = Number(options.parallel ?? (CONTAINERS ? 16 : 32));

/** What is measured of one side in one round. */
interface Measured {
  /** Milliseconds, one at a time. */
  run: number;
  stop: number;
  /** Many at once. */
  podsPerSecond: number;
  /** CPU milliseconds of each of those: of the shim with the runcs that it has started, and of what launches it. */
  shimMs: number;
  launcherMs: number;
}

/** CPU seconds of the programs that this process has started and waited for: plugins. */
const ofChildren = (): number => {
  const { user, system } = process.cpuUsage();
  return cpuSeconds(process.pid) - (user + system) / 1e6;
};

async function measureFloor(floor: Launcher, network: boolean): Promise<Measured> {
  const part = async (count: number, parallel: number) => {
    const all = floor.prepare(count);
    await sleep(1000); // the shims of the part before are collected by then, and are no children of this one
    using _ahead = favourClient();
    const before = ofChildren();
    const run = await phase(all, parallel, undefined, (pod) =>
      Promise.all([floor.run(pod), network ? cniAdd(pod.call) : undefined]),
    );
    const launcher = ofChildren() - before;
    const shims = all.reduce((sum, { child }) => sum + (child ? cpuSeconds(child) : 0), 0);
    const stop = await phase(all, parallel, undefined, (pod) =>
      Promise.all([floor.stop(pod), network ? cniDel(pod.call) : undefined]),
    );
    for (const pod of all) await floor.remove(pod);
    return { run, stop, launcher, shims };
  };
  const each = await part(Number(options.pods), 1);
  const many = await part(MANY, PARALLEL);
  return measured(each, many);
}

async function measureDaemon(daemon: RigDaemon): Promise<Measured> {
  const part = async (pods: number, parallel: number) => {
    const before = cpuOf(daemon);
    const run = await launchMany(daemon, pods, parallel);
    const after = cpuOf(daemon);
    const { stop } = CONTAINERS ? {} : await load({ ...loadOf(daemon), pods, parallel, ops: ['stop'] });
    await removePods(daemon.cri, undefined, 16);
    if (!run || (!stop && !CONTAINERS)) throw new Error('nothing was measured');
    return { run, stop, launcher: after.daemon - before.daemon, shims: after.shims - before.shims };
  };
  const each = await part(Number(options.pods), 1);
  return measured(each, await part(MANY, PARALLEL));
}

async function launchMany(daemon: RigDaemon, pods: number, parallel: number): Promise<Phase | undefined> {
  if (!CONTAINERS) return (await load({ ...loadOf(daemon), pods, parallel, ops: ['run'] })).run;
  const names = Array.from({ length: pods }, (_, at) => `floor${at}`);
  using _ahead = favourClient();
  return phase(names, parallel, undefined, (name) => launchPodAndContainer(daemon, name));
}

/** What one size of load has given; CPU in seconds of all pods. */
interface Part {
  run: Phase;
  /** Absent where it is not measured. */
  stop?: Phase;
  launcher: number;
  shims: number;
}

function measured(each: Part, many: Part): Measured {
  const perPod = (seconds: number) => (seconds * 1000) / MANY;
  return {
    run: each.run.calls.p50,
    stop: each.stop?.calls.p50 ?? Number.NaN,
    podsPerSecond: many.run.podsPerSecond,
    shimMs: perPod(many.shims),
    launcherMs: perPod(many.launcher),
  };
}

const END = ({ stop }: Measured) => stop;

const ALL_ROWS: { name: string; unit: string; of: (measured: Measured) => number }[] = [
  { name: 'start, one at a time, p50', unit: 'ms', of: ({ run }) => run },
  { name: 'end, one at a time, p50', unit: 'ms', of: END },
  { name: `started, ${PARALLEL} at once`, unit: '/s', of: ({ podsPerSecond }) => podsPerSecond },
  { name: 'CPU: shim and runc', unit: 'ms', of: ({ shimMs }) => shimMs },
  { name: 'CPU: daemon and plugins', unit: 'ms', of: ({ launcherMs }) => launcherMs },
];

/** How long the end of a pod with a container takes is mostly its container's, and not measured. */
const ROWS = CONTAINERS ? ALL_ROWS.filter(({ of }) => of !== END) : ALL_ROWS;

async function main(): Promise<number> {
  if (process.getuid?.() !== 0) throw new Error('needs root: it starts daemons');
  if (!['pause', 'container'].includes(options.of)) throw new Error('--of wants pause or container');
  const { containerd, shim = paths.program('containerd-shim-runc-v2') } = await containerdPrograms(options.containerd);
  console.log(`${machine()}\nother work before: ${await otherWork()}`);
  const folder = paths.privateFolder('sluice-launch-floor');
  const registry = await imageRegistry(folder);
  try {
    const runc = paths.program(options.runtime);
    const release = await releaseFor(folder, options);
    const common: Common = { registry, shim, runc, containerd, sandboxImage: 'registry.k8s.io/pause:3.10', release };
    await using stack = new AsyncDisposableStack();
    const theirs = stack.use(await startSide('containerd', 1, common));
    const [first, second] = CONTAINERS ? (['pinned', 'shared'] as const) : (['pause', 'plugins'] as const);
    const own = stack.use(await startSide(first, 0, common));
    const other = stack.use(await startSide(second, 2, common));
    for (const daemon of [theirs, own, other]) {
      await warmUp(daemon, []);
      await removePods(daemon.cri);
    }
    const template = await templateOf(own as SluiceDaemon, CONTAINERS ? 'pinned' : 'pause');
    const programs = { shim: await findProgram(shim, 'the shim'), runc };
    const floor = stack.use(
      await Launcher.open(join(folder, 'f'), template, programs, {
        index: INDEX,
        bound: Number(options.bound) || Number.POSITIVE_INFINITY,
        stateInMemory: true,
      }),
    );
    const sides = new Map<string, () => Promise<Measured>>([
      ['shim, create, start', () => measureFloor(floor, false)],
      [CONTAINERS ? 'with its network beside' : 'with plugins beside', () => measureFloor(floor, true)],
      [`Sluice: ${SIDES[first].meaning}`, () => measureDaemon(own)],
      [`Sluice: ${SIDES[second].meaning}`, () => measureDaemon(other)],
      ['containerd', () => measureDaemon(theirs)],
    ]);
    const all = new Map<string, Measured[]>();
    for (let round = 0; round < Number(options.rounds); round++) {
      for (const [side, measure] of sides) {
        all.set(side, [...(all.get(side) ?? []), await measure()]);
        process.stderr.write('.');
      }
    }
    process.stderr.write('\n');
    const value = (side: string, of: (measured: Measured) => number) => median((all.get(side) ?? []).map(of));
    console.log(''.padEnd(38) + ROWS.map(({ name }) => name.padStart(30)).join(''));
    for (const side of sides.keys()) {
      const cells = ROWS.map(({ unit, of }) => {
        const own = value(side, of);
        const ratio = side === 'containerd' ? '' : ` (${(own / value('containerd', of)).toFixed(2)})`;
        return `${own.toFixed(1)} ${unit}${ratio}`.padStart(30);
      });
      console.log(side.padEnd(38) + cells.join(''));
    }
    console.log(`other work after: ${await otherWork()}`);
    return 0;
  } finally {
    await registry.stop();
    if (mountsBelow(folder).length === 0) rmSync(folder, { recursive: true, force: true });
  }
}

process.exitCode = (options['cgroups-v1'] ? withoutUnified() : undefined) ?? (await main());
