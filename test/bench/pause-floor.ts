/**
 * What a pod with a pause process costs whoever launches it: the shim's start, Create and Start, with everything else
 * made in advance, by this process, beside Sluice and containerd. No daemon that gives each pod a shim and a pause
 * container can be faster, so its ratios are those of one that takes no time at all.
 *
 *   node test/bench/pause-floor.ts [--rounds 2] [--pods 25] [--many 96] [--parallel 32] [--containerd 2.4.2] [--runtime runc]
 *     [--sources]
 *
 * "with plugins beside" has the ADD of the reference plugins beside it, and their DEL beside the end of the task.
 */
import { randomBytes } from 'node:crypto';
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { parseArgs } from 'node:util';
import { serveEvents } from '../../src/node/shims/events.ts';
import { type Shim, Shims } from '../../src/node/shims/shims.ts';
import { parseMountinfo } from '../../src/sys/mountinfo.ts';
import { createNetns, unpinNamespace } from '../../src/sys/netns.ts';
import { SIGKILL } from '../../src/sys/signals.ts';
import { cniAdd } from '../../src/workers/net/add.ts';
import { cniDel } from '../../src/workers/net/del.ts';
import type { CniCall, NetworkConf } from '../../src/workers/net/types.ts';
import { makeBundle } from '../../src/workers/shim/bundle.ts';
import { startDirectly } from '../../src/workers/shim/direct.ts';
import { findProgram } from '../../src/workers/shim/program.ts';
import { handlers } from '../../src/workers/shim.ts';
import { builtOrSystem, CONTAINERDS, containerdVersion } from '../rig/build.ts';
import { type RigNetwork, rigNetwork } from '../rig/cni.ts';
import { removePods } from '../rig/cri.ts';
import type { RigDaemon, SluiceDaemon } from '../rig/daemon.ts';
import { imageRegistry } from '../rig/images.ts';
import { mountsBelow } from '../rig/leftovers.ts';
import * as paths from '../rig/paths.ts';
import { cpuSeconds } from '../rig/proc.ts';
import { favourClient, load, type Phase, phase } from './load.ts';
import { machine, otherWork } from './machine.ts';
import { cpuOf, launchPod, pods as loadOf, warmUp } from './pods.ts';
import { releaseFor, SOURCES } from './release.ts';
import { type Common, startSide } from './sides.ts';
import { median } from './statistics.ts';

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '2' },
    pods: { type: 'string', default: '25' },
    many: { type: 'string', default: '96' },
    parallel: { type: 'string', default: '32' },
    containerd: { type: 'string', default: '2.4.2' },
    runtime: { type: 'string', default: 'runc' },
    sources: SOURCES,
  },
});
const NAMESPACE = 'k8s.io';
const INDEX = 7;

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

/** A pod of which nothing runs yet. */
interface Pod {
  id: string;
  bundle: string;
  snapshot: string;
  netns: string;
  call: CniCall;
  shim?: Shim;
  /** Pid of the shim. */
  child?: number;
}

/** The spec and the layer of a pause container as the daemon makes them, from one that it has run. */
interface Template {
  spec: { annotations: Record<string, string>; linux: Linux; mounts: { source: string }[] };
  id: string;
  lower: string;
}
interface Linux {
  cgroupsPath: string;
  namespaces: { type: string; path?: string }[];
}

/** What the spec mounts of the pod's own files is copied into `folder`: the pod does not stay. */
async function templateOf(daemon: SluiceDaemon, folder: string): Promise<Template> {
  const id = await launchPod(daemon, 'template');
  const bundle = join(daemon.state, 'bundles', id);
  const rootfs = parseMountinfo(readFileSync('/proc/self/mountinfo', 'utf8')).find(
    ({ mountPoint }) => mountPoint === join(bundle, 'rootfs'),
  );
  const lower = rootfs?.superOptions.find((option) => option.startsWith('lowerdir='));
  if (!lower) throw new Error(`nothing is mounted on ${bundle}/rootfs`);
  const spec = JSON.parse(readFileSync(join(bundle, 'config.json'), 'utf8')) as Template['spec'];
  for (const mount of spec.mounts) {
    if (!mount.source.startsWith(daemon.folder)) continue;
    const copy = join(folder, basename(mount.source));
    cpSync(mount.source, copy, { recursive: true });
    mount.source = copy;
  }
  await removePods(daemon.cri);
  return { spec, id, lower };
}

/** A launcher without a daemon around it. */
class Floor implements AsyncDisposable {
  readonly #folder: string;
  readonly #template: Template;
  readonly #network: RigNetwork;
  readonly #program: Awaited<ReturnType<typeof findProgram>>;
  readonly #runtime: string;
  readonly #shims = new Shims({ onLost: () => {} });
  readonly #events: AsyncDisposable;
  readonly #pods = new Set<Pod>();

  private constructor(
    folder: string,
    template: Template,
    network: RigNetwork,
    programs: Programs,
    events: AsyncDisposable,
  ) {
    this.#folder = folder;
    this.#template = template;
    this.#network = network;
    this.#program = programs.shim;
    this.#runtime = programs.runc;
    this.#events = events;
  }

  static async open(folder: string, template: Template, programs: Programs): Promise<Floor> {
    mkdirSync(join(folder, 's'), { recursive: true });
    const onError = (error: Error) => console.error(error);
    const events = await serveEvents({ path: join(folder, 'events.sock'), onEvent: () => {}, onError });
    return new Floor(folder, template, await rigNetwork(folder, { index: INDEX }), programs, events);
  }

  /** Makes all that is not measured. */
  prepare(count: number): Pod[] {
    const file = readdirSync(this.#network.confDir).find((name) => name.endsWith('.conflist')) ?? '';
    const network = {
      ...(JSON.parse(readFileSync(join(this.#network.confDir, file), 'utf8')) as Omit<NetworkConf, 'source'>),
      source: file,
    };
    return Array.from({ length: count }, (): Pod => {
      const id = randomBytes(32).toString('hex');
      const netns = join(this.#folder, 'netns', id);
      const bundle = join(this.#folder, 'bundles', id);
      const snapshot = join(this.#folder, 'snapshots', id);
      createNetns(netns, { loopback: true });
      handlers.prepareSnapshot({ dir: snapshot });
      const { spec, id: old } = this.#template;
      const linux: Linux = {
        ...spec.linux,
        cgroupsPath: spec.linux.cgroupsPath.replaceAll(old, id),
        namespaces: spec.linux.namespaces.map((one) => (one.type === 'network' ? { ...one, path: netns } : one)),
      };
      const annotations = Object.fromEntries(
        Object.entries(spec.annotations).map(([key, value]) => [key, value.replaceAll(old, id)]),
      );
      makeBundle({
        bundle,
        workDir: join(this.#folder, 'work', id),
        spec: JSON.stringify({ ...spec, annotations, linux }),
      });
      writeFileSync(join(bundle, 'log'), '');
      const attachment = { network, containerId: id, netns, ifName: 'eth0', capabilityArgs: {} };
      const call: CniCall = {
        attachment: { ...attachment, args: [['IgnoreUnknown', '1']] },
        binDirs: this.#network.binDirs,
        cacheDir: this.#network.cacheDir,
        timeoutMs: 60_000,
        inProcess: false,
      };
      const pod = { id, bundle, snapshot, netns, call };
      this.#pods.add(pod);
      return pod;
    });
  }

  async run(pod: Pod, plugins: boolean): Promise<void> {
    await Promise.all([this.#launch(pod), plugins ? cniAdd(pod.call) : undefined]);
  }

  async #launch(pod: Pod): Promise<void> {
    const { id, bundle, snapshot } = pod;
    const addresses = {
      grpc: join(this.#folder, 'grpc.sock'),
      ttrpc: join(this.#folder, 'events.sock'),
      publishBinary: '/bin/true',
    };
    const input = { id, namespace: NAMESPACE, addresses, bundle, socketDir: join(this.#folder, 's') };
    const started = startDirectly(this.#program, input, { key: this.#program.key, version: 3 });
    const row = { binary: this.#program.path, address: started.address, version: started.version };
    pod.child = started.child;
    pod.shim = await this.#shims.connect(id, row, { child: started.child, timeoutMs: 60_000 });
    const layers = [this.#template.lower, `upperdir=${snapshot}/fs`, `workdir=${snapshot}/work`];
    await pod.shim.task.create({
      id,
      bundle,
      rootfs: [{ type: 'overlay', source: 'overlay', target: '', options: layers }],
      runtime: { binary: this.#runtime, root: join(this.#folder, 'runtime'), systemdCgroup: false },
    });
    await pod.shim.task.start(id);
  }

  async stop(pod: Pod, plugins: boolean): Promise<void> {
    await Promise.all([this.#end(pod), plugins ? cniDel(pod.call) : undefined]);
  }

  async #end({ id, shim }: Pod): Promise<void> {
    if (!shim) return;
    const ended = shim.task.wait(id);
    await shim.task.kill(id, SIGKILL);
    await ended;
    await shim.task.delete(id);
  }

  async remove(pod: Pod): Promise<void> {
    if (pod.shim) await this.#shims.shutdown(pod.shim);
    await handlers.removeBundle({ bundle: pod.bundle, workDir: join(this.#folder, 'work', basename(pod.bundle)) });
    await handlers.removeSnapshot({ dir: pod.snapshot });
    unpinNamespace(pod.netns);
    this.#pods.delete(pod);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // None, unless something has failed.
    for (const pod of this.#pods) {
      await this.stop(pod, true).catch((error: unknown) => console.error(error));
      await this.remove(pod).catch((error: unknown) => console.error(error));
    }
    this.#shims[Symbol.dispose]();
    await this.#events[Symbol.asyncDispose]();
    await this.#network[Symbol.asyncDispose]();
  }
}

interface Programs {
  shim: Awaited<ReturnType<typeof findProgram>>;
  runc: string;
}

/** CPU seconds of the programs that this process has started and waited for: plugins. */
const ofChildren = (): number => {
  const { user, system } = process.cpuUsage();
  return cpuSeconds(process.pid) - (user + system) / 1e6;
};

async function measureFloor(floor: Floor, plugins: boolean): Promise<Measured> {
  const part = async (count: number, parallel: number) => {
    const all = floor.prepare(count);
    using _ahead = favourClient();
    const before = ofChildren();
    const run = await phase(all, parallel, undefined, (pod) => floor.run(pod, plugins));
    const launcher = ofChildren() - before;
    const shims = all.reduce((sum, { child }) => sum + (child ? cpuSeconds(child) : 0), 0);
    const stop = await phase(all, parallel, undefined, (pod) => floor.stop(pod, plugins));
    for (const pod of all) await floor.remove(pod);
    return { run, stop, launcher, shims };
  };
  const each = await part(Number(options.pods), 1);
  const many = await part(Number(options.many), Number(options.parallel));
  return measured(each, many);
}

async function measureDaemon(daemon: RigDaemon): Promise<Measured> {
  const part = async (pods: number, parallel: number) => {
    const before = cpuOf(daemon);
    const { run } = await load({ ...loadOf(daemon), pods, parallel, ops: ['run'] });
    const after = cpuOf(daemon);
    const { stop } = await load({ ...loadOf(daemon), pods, parallel, ops: ['stop'] });
    await removePods(daemon.cri, undefined, 16);
    if (!run || !stop) throw new Error('nothing was measured');
    return { run, stop, launcher: after.daemon - before.daemon, shims: after.shims - before.shims };
  };
  const each = await part(Number(options.pods), 1);
  return measured(each, await part(Number(options.many), Number(options.parallel)));
}

/** What one size of load has given; CPU in seconds of all pods. */
interface Part {
  run: Phase;
  stop: Phase;
  launcher: number;
  shims: number;
}

function measured(each: Part, many: Part): Measured {
  const perPod = (seconds: number) => (seconds * 1000) / Number(options.many);
  return {
    run: each.run.calls.p50,
    stop: each.stop.calls.p50,
    podsPerSecond: many.run.podsPerSecond,
    shimMs: perPod(many.shims),
    launcherMs: perPod(many.launcher),
  };
}

const ROWS: { name: string; unit: string; of: (measured: Measured) => number }[] = [
  { name: 'start, one at a time, p50', unit: 'ms', of: ({ run }) => run },
  { name: 'end, one at a time, p50', unit: 'ms', of: ({ stop }) => stop },
  { name: `started, ${options.parallel} at once`, unit: '/s', of: ({ podsPerSecond }) => podsPerSecond },
  { name: 'CPU: shim and runc', unit: 'ms', of: ({ shimMs }) => shimMs },
  { name: 'CPU: daemon and plugins', unit: 'ms', of: ({ launcherMs }) => launcherMs },
];

async function main(): Promise<void> {
  if (process.getuid?.() !== 0) throw new Error('needs root: it starts daemons');
  const programs = CONTAINERDS[containerdVersion(options.containerd)];
  const shim = (await builtOrSystem(programs.shim)) ?? paths.program('containerd-shim-runc-v2');
  const containerd = await builtOrSystem(programs.daemon);
  console.log(`${machine()}\nother work before: ${await otherWork()}`);
  const folder = paths.privateFolder('sluice-pause-floor');
  const registry = await imageRegistry(folder);
  try {
    const runc = paths.findProgram(options.runtime) ?? paths.program('runc');
    const release = await releaseFor(folder, options);
    const common: Common = { registry, shim, runc, containerd, sandboxImage: 'registry.k8s.io/pause:3.10', release };
    await using stack = new AsyncDisposableStack();
    const theirs = stack.use(await startSide('containerd', 1, common));
    const pause = stack.use(await startSide('pause', 0, common));
    const plugins = stack.use(await startSide('plugins', 2, common));
    for (const daemon of [theirs, pause, plugins]) {
      await warmUp(daemon, []);
      await removePods(daemon.cri);
    }
    const template = await templateOf(pause as SluiceDaemon, folder);
    const state = join(folder, 'state');
    const floor = stack.use(await Floor.open(state, template, { shim: await findProgram(shim, 'the shim'), runc }));
    const sides = new Map<string, () => Promise<Measured>>([
      ['shim, create, start', () => measureFloor(floor, false)],
      ['Sluice, in process', () => measureDaemon(pause)],
      ['with plugins beside', () => measureFloor(floor, true)],
      ['Sluice, plugins', () => measureDaemon(plugins)],
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
    console.log(''.padEnd(24) + ROWS.map(({ name }) => name.padStart(30)).join(''));
    for (const side of sides.keys()) {
      const cells = ROWS.map(({ unit, of }) => {
        const own = value(side, of);
        const ratio = side === 'containerd' ? '' : ` (${(own / value('containerd', of)).toFixed(2)})`;
        return `${own.toFixed(1)} ${unit}${ratio}`.padStart(30);
      });
      console.log(side.padEnd(24) + cells.join(''));
    }
    console.log(`other work after: ${await otherWork()}`);
  } finally {
    await registry.stop();
    if (mountsBelow(folder).length === 0) rmSync(folder, { recursive: true, force: true });
  }
}

await main();
