/**
 * A launcher without a daemon around it, for floors: of a pod or of a pod's container it does only what others have to
 * do for it, which is the shim's start, Create and Start. Everything else is made in advance, as Sluice makes it.
 */
import { randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename, join } from 'node:path';
import PQueue from 'p-queue';
import { stageLimit } from '../../src/node/config/limits.ts';
import { serveEvents } from '../../src/node/shims/events.ts';
import { type Shim, Shims } from '../../src/node/shims/shims.ts';
import { dropHolder, HOLDER, heldPath, openHolder } from '../../src/sys/holder.ts';
import { setLink } from '../../src/sys/link.ts';
import { parseMountinfo } from '../../src/sys/mountinfo.ts';
import { pinNamespaces, setHostname, unpinNamespace } from '../../src/sys/netns.ts';
import { SIGKILL } from '../../src/sys/signals.ts';
import { cniDel } from '../../src/workers/net/del.ts';
import type { CniCall, NetworkConf } from '../../src/workers/net/types.ts';
import { makeBundle } from '../../src/workers/shim/bundle.ts';
import { startDirectly } from '../../src/workers/shim/direct.ts';
import type { findProgram } from '../../src/workers/shim/program.ts';
import { handlers } from '../../src/workers/shim.ts';
import { type RigNetwork, rigNetwork } from '../rig/cni.ts';
import { removePods } from '../rig/cri.ts';
import type { SluiceDaemon } from '../rig/daemon.ts';
import { sweep, type Traces } from '../rig/leftovers.ts';
import { stateFolder } from '../rig/paths.ts';
import { tidyAtSignal } from '../rig/tidy.ts';
import { launchPod, SLEEP, startContainer } from './pods.ts';

const NAMESPACE = 'k8s.io';

/**
 * How many of each of the three steps run at once by Sluice's defaults, here: with more of them each one takes more
 * CPU, so that a launcher without bounds is no floor.
 */
export const BOUND = stageLimit('create', availableParallelism()).limit;

/** Programs by absolute path. */
export interface Programs {
  shim: Awaited<ReturnType<typeof findProgram>>;
  runc: string;
}

/** A pod of which nothing runs yet. */
export interface PreparedPod {
  /** The pod's id, which is the shim's. */
  id: string;
  /** The id of what runs: the pod's own where that is its pause process. */
  task: string;
  netns: string;
  /** IPC and UTS namespaces, where the pod holds them itself. */
  held: string[];
  /** ADD and DEL of its network, which nobody has called: without processes for a pinned pod, else by plugins. */
  call: CniCall;
  shim?: Shim;
  /** Pid of the shim. */
  child?: number;
  /** Pid of what runs: `runc init` until Start. */
  init?: number;
}

interface Spec {
  annotations: Record<string, string>;
  linux: { cgroupsPath: string; namespaces: { type: string; path?: string }[] };
  mounts: { source: string }[];
}

/** The spec and the layers of what runs, as the daemon makes them, from a pod that it has run. */
export interface Template {
  spec: Spec;
  /** config.json of the shim's own bundle, where what runs has another. */
  pinned?: string;
  pod: string;
  task: string;
  lower: string;
  /** Below which all files of the pod were. */
  folder: string;
}

/** From a pod of `daemon` that does not stay: its pause process, or its container where it is a pinned one. */
export async function templateOf(daemon: SluiceDaemon, mode: 'pause' | 'pinned'): Promise<Template> {
  const pod = await launchPod(daemon, 'template');
  const task = mode === 'pause' ? pod : await startContainer(daemon, pod, 'main', SLEEP);
  const bundles = join(daemon.state, 'bundles');
  const rootfs = parseMountinfo(readFileSync('/proc/self/mountinfo', 'utf8')).find(
    ({ mountPoint }) => mountPoint === join(bundles, task, 'rootfs'),
  );
  const lower = rootfs?.superOptions.find((option) => option.startsWith('lowerdir='));
  if (!lower) throw new Error(`nothing is mounted on ${bundles}/${task}/rootfs`);
  const config = (id: string) => readFileSync(join(bundles, id, 'config.json'), 'utf8');
  const spec = JSON.parse(config(task)) as Spec;
  const pinned = mode === 'pinned' ? config(pod) : undefined;
  await removePods(daemon.cri);
  return { spec, pinned, pod, task, lower, folder: daemon.folder };
}

export class Launcher implements AsyncDisposable {
  readonly #folder: string;
  readonly #root: string;
  readonly #takeAway: () => Promise<void>;
  readonly #template: Template;
  readonly #network: RigNetwork;
  readonly #programs: Programs;
  readonly #shims = new Shims({ onLost: () => {} });
  readonly #events: AsyncDisposable;
  readonly #pods = new Set<PreparedPod>();
  readonly #steps: Record<'shim' | 'create' | 'start', PQueue>;

  private constructor(
    folders: { state: string; root: string; takeAway: () => Promise<void> },
    template: Template,
    network: RigNetwork,
    programs: Programs,
    events: AsyncDisposable,
    bound: number,
  ) {
    const step = () => new PQueue({ concurrency: bound });
    this.#steps = { shim: step(), create: step(), start: step() };
    this.#folder = folders.state;
    this.#root = folders.root;
    this.#takeAway = folders.takeAway;
    this.#template = template;
    this.#network = network;
    this.#programs = programs;
    this.#events = events;
  }

  /**
   * All of it is below `folder`, which is made and taken away, what a node has in /run on a tmpfs with `stateInMemory`.
   * `index` as for startSide(). `bound` is how many shims start at once, how many are asked to create, and how many to
   * start. The daemon of the template has to run: the layers and the cgroup are its own.
   */
  static async open(
    folder: string,
    template: Template,
    programs: Programs,
    { index, bound, stateInMemory = false }: { index: number; bound: number; stateInMemory?: boolean },
  ): Promise<Launcher> {
    const root = join(folder, 'root');
    mkdirSync(root, { recursive: true });
    const network = await rigNetwork(root, { index });
    const state = await stateFolder(folder, stateInMemory);
    mkdirSync(join(state, 's'), { recursive: true });
    // No cgroup has this name: those of the containers are swept by the daemon, after this.
    const traces: Traces = { folder, netnsDir: join(state, 'netns'), cgroup: basename(folder), network };
    const untidy = tidyAtSignal(() => sweep(traces));
    const takeAway = async () => {
      await sweep(traces);
      untidy();
    };
    const onError = (error: Error) => console.error(error);
    const events = await serveEvents({ path: join(state, 'events.sock'), onEvent: () => {}, onError });
    if (template.pinned !== undefined) openHolder(join(state, HOLDER));
    return new Launcher({ state, root, takeAway }, template, network, programs, events, bound);
  }

  /** Makes all that run() does not. */
  prepare(count: number): PreparedPod[] {
    const file = readdirSync(this.#network.confDir).find((name) => name.endsWith('.conflist')) ?? '';
    const network = {
      ...(JSON.parse(readFileSync(join(this.#network.confDir, file), 'utf8')) as Omit<NetworkConf, 'source'>),
      source: file,
    };
    return Array.from({ length: count }, () => this.#prepareOne(network));
  }

  #prepareOne(network: NetworkConf): PreparedPod {
    const { spec, pinned, pod: oldPod, task: oldTask, folder: oldFolder } = this.#template;
    const id = randomBytes(32).toString('hex');
    const task = pinned === undefined ? id : randomBytes(32).toString('hex');
    const netns = join(this.#folder, 'netns', id);
    const kinds = pinned === undefined ? [] : (['ipc', 'uts'] as const);
    const held = kinds.map((kind) => heldPath(join(this.#folder, HOLDER), `${id}.${kind}`));
    const paths = new Map<string, string | undefined>([
      ['network', netns],
      ['ipc', held[0]],
      ['uts', held[1]],
    ]);
    pinNamespaces({ net: netns, ...(held[0] && { ipc: held[0] }), ...(held[1] && { uts: held[1] }) }, () => {
      setLink('lo', true);
      if (held.length > 0) setHostname('floor');
    });
    const files = this.#filesOf(id);
    handlers.sandboxFiles({ ...files, hostname: 'floor', hostIpc: false });
    handlers.prepareSnapshot({ dir: this.#snapshotOf(task) });
    const renamed = (text: string) => text.replaceAll(oldTask, task).replaceAll(oldPod, id);
    const own: Spec = {
      ...spec,
      annotations: Object.fromEntries(Object.entries(spec.annotations).map(([key, value]) => [key, renamed(value)])),
      linux: {
        ...spec.linux,
        cgroupsPath: renamed(spec.linux.cgroupsPath),
        namespaces: spec.linux.namespaces.map((one) => {
          const path = paths.get(one.type);
          return one.path === undefined || path === undefined ? one : { ...one, path };
        }),
      },
      mounts: spec.mounts.map((mount) => {
        if (!mount.source.startsWith(oldFolder)) return mount;
        const name = basename(mount.source);
        return { ...mount, source: join(name === 'shm' ? files.stateDir : files.rootDir, name) };
      }),
    };
    this.#bundle(task, JSON.stringify(own));
    if (pinned !== undefined) this.#bundle(id, renamed(pinned));
    writeFileSync(join(this.#bundleOf(id), 'log'), '');
    const attachment = { network, containerId: id, netns, ifName: 'eth0', capabilityArgs: {} };
    const call: CniCall = {
      attachment: { ...attachment, args: [['IgnoreUnknown', '1']] },
      binDirs: this.#network.binDirs,
      cacheDir: this.#network.cacheDir,
      timeoutMs: 60_000,
      inProcess: pinned !== undefined,
    };
    const pod = { id, task, netns, held, call };
    this.#pods.add(pod);
    return pod;
  }

  /** The shim's start, Create and Start. */
  async run(pod: PreparedPod): Promise<void> {
    const { shim: starting, create, start } = this.#steps;
    const { task } = await starting.add(() => this.#startShim(pod));
    await create.add(() => this.#create(pod, task));
    await start.add(() => task.start(pod.task));
  }

  async #startShim(pod: PreparedPod): Promise<Shim> {
    const { shim } = this.#programs;
    const addresses = {
      grpc: join(this.#folder, 'grpc.sock'),
      ttrpc: join(this.#folder, 'events.sock'),
      publishBinary: '/bin/true',
    };
    const bundle = this.#bundleOf(pod.id);
    const input = { id: pod.id, namespace: NAMESPACE, addresses, bundle, socketDir: join(this.#folder, 's') };
    const started = startDirectly(shim, input, { key: shim.key, version: 3 });
    const row = { binary: shim.path, address: started.address, version: started.version };
    pod.child = started.child;
    pod.shim = await this.#shims.connect(pod.id, row, { child: started.child, timeoutMs: 60_000 });
    return pod.shim;
  }

  async #create(pod: PreparedPod, task: Shim['task']): Promise<void> {
    const { task: id } = pod;
    const snapshot = this.#snapshotOf(id);
    const layers = [this.#template.lower, `upperdir=${snapshot}/fs`, `workdir=${snapshot}/work`];
    pod.init = await task.create({
      id,
      bundle: this.#bundleOf(id),
      rootfs: [{ type: 'overlay', source: 'overlay', target: '', options: layers }],
      runtime: { binary: this.#programs.runc, root: join(this.#folder, 'runtime'), systemdCgroup: false },
    });
  }

  /** The end of what runs. */
  async stop({ task, shim }: PreparedPod): Promise<void> {
    if (!shim) return;
    const ended = shim.task.wait(task);
    await shim.task.kill(task, SIGKILL);
    await ended;
    await shim.task.delete(task);
  }

  /** Takes away the shim and all that prepare() has made. */
  async remove(pod: PreparedPod): Promise<void> {
    const { id, task, netns, held, shim } = pod;
    if (shim) await this.#shims.shutdown(shim);
    for (const one of new Set([task, id])) {
      await handlers.removeBundle({ bundle: this.#bundleOf(one) });
    }
    await handlers.removeSnapshot({ dir: this.#snapshotOf(task) });
    await handlers.removeSandboxFiles(this.#filesOf(id));
    for (const path of [netns, ...held]) unpinNamespace(path);
    this.#pods.delete(pod);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // None, unless something has failed.
    for (const pod of this.#pods) {
      await this.stop(pod).catch((error: unknown) => console.error(error));
      await cniDel(pod.call).catch((error: unknown) => console.error(error));
      await this.remove(pod).catch((error: unknown) => console.error(error));
    }
    this.#shims[Symbol.dispose]();
    await this.#events[Symbol.asyncDispose]();
    if (this.#template.pinned !== undefined) dropHolder(join(this.#folder, HOLDER));
    await this.#takeAway();
  }

  #bundle(id: string, spec: string): void {
    makeBundle({ bundle: this.#bundleOf(id), spec });
  }

  #bundleOf(id: string): string {
    return join(this.#folder, 'bundles', id);
  }

  #snapshotOf(id: string): string {
    return join(this.#root, 'snapshots', id);
  }

  #filesOf(id: string): { rootDir: string; stateDir: string } {
    return { rootDir: join(this.#root, 'sandboxes', id), stateDir: join(this.#folder, 'sandboxes', id) };
  }
}
