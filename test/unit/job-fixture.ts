/**
 * The services of jobs on a node of fakes: pools, network, images, shims and stdio do nothing but keep what they are
 * asked, and fail when a test says so. Everything in src/pipeline, the states and the tables of rows are the real ones.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type {
  ContainerConfig,
  CreateContainerRequest,
  PodSandboxConfig,
  RunPodSandboxRequest,
} from '../../proto/gen/cri.ts';
import { nowNs } from '../../src/clock.ts';
import { SluiceError } from '../../src/errors.ts';
import { parseConfig } from '../../src/node/config/load.ts';
import type { Images } from '../../src/node/images/images.ts';
import type { ImageRow } from '../../src/node/images/rows.ts';
import type { Network } from '../../src/node/network/network.ts';
import { createLog } from '../../src/node/observe/log.ts';
import type { Metrics } from '../../src/node/observe/metrics.ts';
import { BundleSpecs } from '../../src/node/oci/bundle-specs.ts';
import { DirectStartPolicy } from '../../src/node/shims/direct-start-policy.ts';
import type { Reattached, Shim, Shims } from '../../src/node/shims/shims.ts';
import type { Exit, Task } from '../../src/node/shims/task.ts';
import { type ContainerRow, ContainerStates } from '../../src/node/store/container.ts';
import { Events } from '../../src/node/store/events.ts';
import { type SandboxRow, SandboxStates, type ShimRow } from '../../src/node/store/sandbox.ts';
import type { Store } from '../../src/node/store/store.ts';
import { Table } from '../../src/node/store/table.ts';
import type { Stdio } from '../../src/node/streaming/stdio.ts';
import type { Pool } from '../../src/node/threads/pool.ts';
import { Admission } from '../../src/pipeline/engine/admission.ts';
import { Engine } from '../../src/pipeline/engine/engine.ts';
import { Locks } from '../../src/pipeline/engine/lock.ts';
import { RetryQueue } from '../../src/pipeline/engine/retry-queue.ts';
import { Runner } from '../../src/pipeline/engine/runner.ts';
import { Containers } from '../../src/pipeline/jobs/containers.ts';
import type { JobContext, JobServices } from '../../src/pipeline/jobs/context.ts';
import { ExitWatch } from '../../src/pipeline/jobs/exits.ts';
import { Pods } from '../../src/pipeline/jobs/pods.ts';
import { Pulls } from '../../src/pipeline/jobs/pulls.ts';
import { ReservedNames } from '../../src/pipeline/jobs/reserved-names.ts';
import type { CniAttachment } from '../../src/workers/net/types.ts';
import type { handlers as netHandlers } from '../../src/workers/net.ts';
import type { Handlers } from '../../src/workers/serve.ts';
import type { handlers as shimHandlers } from '../../src/workers/shim.ts';
import { imageSpec } from '../rig/messages.ts';
import { fake } from './fake.ts';
import { type JobLog, logJobs } from './job-log.ts';
import { container, FEATURES, HOST, pod } from './oci-fixtures.ts';
import { follow } from './store-fixture.ts';

export const PAUSE = 'pause:1';
export const IMAGE = 'app:1';

/** What a test makes of a call: an error it fails with, or a function that waits, throws or looks at the input. */
export type Hook = Error | ((input: unknown) => Promise<unknown> | unknown);

export interface JobLab extends Disposable {
  ctx: JobContext;
  services: JobServices;
  containers: Containers;
  pods: Pods;
  pulls: Pulls;
  exits: ExitWatch;
  locks: Locks;
  /** What the observer was called with. */
  jobs: JobLog;
  /** Lines of the daemon's log. */
  lines: { level: string; message: string }[];
  /**
   * What the node was asked, in order: "net.createNetns", "network.add", "task.create", "task.kill 9", "stdio.drain", …
   */
  calls: string[];
  /** By such a name: what happens when it is asked. A function's result is the call's, where the call has one. */
  hooks: Map<string, Hook>;
  /** Counters that were raised: "exits zero". */
  counted: string[];
  /** By pod. */
  shims: Map<string, FakeShim>;
  images: Map<string, ImageRow>;
  /** Ends the daemon, as far as jobs see it. */
  ending: AbortController;
  /** Ends the subscription to events and gives what was published: type, container, sandbox. */
  published: ReturnType<typeof follow>;
  podRequest(over?: Partial<PodSandboxConfig>, runtimeHandler?: string): RunPodSandboxRequest;
  containerRequest(sandbox: string, over?: Partial<ContainerConfig>): CreateContainerRequest;
  /** Launches a pod and returns its row. */
  launch(over?: Partial<PodSandboxConfig>): Promise<SandboxRow>;
  /** Creates a container in the pod, starts it unless told not to, and returns its row. */
  add(sandbox: SandboxRow, over?: Partial<ContainerConfig>, how?: { start: boolean }): Promise<ContainerRow>;
}

/** A pod's shim, with its tasks by id. */
export class FakeShim {
  state: 'alive' | 'dead' | 'unknown' = 'alive';
  /** False: stop signals are ignored, only SIGKILL ends a task. */
  obeys = true;
  readonly tasks = new Map<string, { started: boolean; exit?: Exit; ended: PromiseWithResolvers<Exit> }>();
  readonly shim: Shim;

  constructor(pod: string, row: ShimRow, did: Did) {
    const { tasks } = this;
    const lost = () => new SluiceError('SHIM_FAILED', `the shim of pod ${pod} is gone`);
    const alive = () => {
      if (this.state === 'dead') throw lost();
    };
    const task = fake<Task>('task', {
      version: 3,
      async create({ id }) {
        alive();
        // The runtime may have made it before the answer is lost.
        const ended = Promise.withResolvers<Exit>();
        ended.promise.catch(() => {});
        tasks.set(id, { started: false, ended });
        await did('task.create', id);
        return 100 + tasks.size;
      },
      start: async (id) => {
        alive();
        await did('task.start', id);
        const found = tasks.get(id);
        if (!found) throw new SluiceError('CONTAINER_NOT_FOUND', `no task ${id}`);
        found.started = true;
        return 200 + tasks.size;
      },
      wait: async (id) => {
        alive();
        await did('task.wait', id);
        const found = tasks.get(id);
        if (!found) throw new SluiceError('CONTAINER_NOT_FOUND', `no task ${id}`);
        return found.ended.promise;
      },
      kill: async (id, signal) => {
        alive();
        await did(`task.kill ${signal}`, id);
        const found = tasks.get(id);
        if (!found || found.exit) return false;
        if (signal === 9 || this.obeys) this.exit(id, 128 + signal);
        return true;
      },
      delete: async (id) => {
        alive();
        await did('task.delete', id);
        const exit = tasks.get(id)?.exit;
        if (exit) tasks.delete(id);
        return exit;
      },
      update: async (id, resources) => void (await did('task.update', { id, resources })),
      exec: async (exec) => void (await did('task.exec', exec)),
    });
    this.shim = fake<Shim>('shim', { pod, row, task, open: true });
  }

  /** The process of this id ends. */
  exit(id: string, exitStatus: number): void {
    const found = this.tasks.get(id);
    if (!found) throw new Error(`no task ${id}`);
    found.exit = { exitStatus, at: nowNs() };
    found.ended.resolve(found.exit);
  }

  /** The shim dies and its connection breaks. */
  die(state: 'dead' | 'unknown' = 'dead'): void {
    this.state = state;
    const lost = new SluiceError('SHIM_FAILED', 'the connection to the shim broke');
    for (const { ended } of this.tasks.values()) ended.reject(lost);
  }
}

type Did = (name: string, input?: unknown) => Promise<unknown>;

function fakePool<T extends Handlers>(name: string, answers: Partial<T>, did: Did): Pool<T> {
  return fake<Pool<T>>(`pool ${name}`, {
    async call<K extends keyof T & string>(op: K, input: Parameters<T[K]>[0]): Promise<Awaited<ReturnType<T[K]>>> {
      const hooked = await did(`${name}.${op}`, input);
      return (hooked === undefined ? await answers[op]?.(input) : hooked) as Awaited<ReturnType<T[K]>>;
    },
  });
}

function image(name: string): ImageRow {
  return {
    id: `sha256:${name}`,
    names: [name],
    config: { Entrypoint: ['/start'] },
    file: { rootfs: { type: 'layers', diff_ids: [] } },
    layers: [],
    size: 0,
  };
}

/** `claimTtlMs`: how long a launch that nobody waits for is kept. */
export function openJobLab({ claimTtlMs = 60_000, retryMs = 1 } = {}): JobLab {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-jobs-'));
  const config = parseConfig(`root = "${folder}/root"\nstate = "${folder}/state"\n`, 'test');
  config.pipeline.claim_ttl_seconds = claimTtlMs / 1000;
  const jobs = logJobs();
  const lines: JobLab['lines'] = [];
  const calls: string[] = [];
  const counted: string[] = [];
  const hooks = new Map<string, Hook>();
  const shims = new Map<string, FakeShim>();
  const images = new Map([PAUSE, IMAGE].map((name) => [name, image(name)]));
  const ending = new AbortController();
  const events = new Events(nowNs, () => {});
  const published = follow(events);

  const did: Did = async (name, input) => {
    calls.push(name);
    const hook = hooks.get(name);
    if (hook instanceof Error) throw hook;
    return hook?.(input);
  };
  const tables = { sandboxes: new Table<SandboxRow>(), containers: new Table<ContainerRow>() };
  const store = fake<Store>('store', {
    ...tables,
    containersOf: (sandbox) => [...tables.containers.values()].filter((row) => row.sandbox === sandbox),
  });
  const startedShim = { version: 3 as const, binary: '/usr/bin/containerd-shim-runc-v2' };
  let addresses = 0;
  let namespaces = 0;

  const basis: Omit<JobContext, 'exits'> = {
    config,
    host: { ...HOST, apparmor: false },
    features: { runc: FEATURES },
    openFiles: undefined,
    log: createLog({ level: 'trace', stream: { write: (line) => void lines.push(JSON.parse(line)) } }),
    metrics: fake<Metrics>('metrics', {
      inc: (key, labels) => void counted.push([key, ...Object.values(labels)].join(' ')),
      observe: () => {},
    }),
    store,
    sandboxStates: new SandboxStates(tables.sandboxes, events),
    containerStates: new ContainerStates(tables.containers, events),
    unclaimed: new Set(),
    sandboxNames: new ReservedNames('sandbox'),
    containerNames: new ReservedNames('container'),
    pools: fake<JobContext['pools']>('pools', {
      net: fakePool<typeof netHandlers>('net', {}, did),
      shim: fakePool<typeof shimHandlers>(
        'shim',
        {
          startShim: async () => {
            const address = `/run/s/${++addresses}`;
            return { ...startedShim, address, key: 'key', spawnSeconds: 0, seconds: 0 };
          },
          cleanupShim: async () => ({ killed: [], warnings: [] }),
          killLeftovers: async () => [],
        },
        did,
      ),
    }),
    network: fake<Network>('network', {
      netnsPath: () => `/run/netns/sluice-${++namespaces}`,
      attachment: ({ id, netns }) => ({
        network: { name: 'pods', cniVersion: '1.0.0', plugins: [], source: 'test' },
        containerId: id,
        netns,
        ifName: 'eth0',
        args: [],
        capabilityArgs: {},
      }),
      async add(attachment: CniAttachment) {
        await did('network.add', attachment);
        return {
          cniVersion: '1.1.0',
          interfaces: [{ name: 'eth0', sandbox: attachment.netns }],
          ips: [{ address: '10.1.2.3/24', interface: 0 }],
        };
      },
      del: async (attachment) => void (await did('network.del', attachment)),
      gc: async (_, how) => ((await did('network.gc', how)) as string[] | undefined) ?? [],
      strays: async (known) => (await did('network.strays', known)) as Awaited<ReturnType<Network['strays']>>,
    }),
    images: fake<Images>('images', {
      sandboxImage: PAUSE,
      find: (reference) => images.get(reference),
      get(id) {
        const found = [...images.values()].find((row) => row.id === id);
        if (!found) throw SluiceError.of('IMAGE_NOT_FOUND', id);
        return found;
      },
      prepareSnapshot: async ({ dir, owner }) => void (await did('images.prepareSnapshot', { dir, owner })),
      removeSnapshot: async (dir) => void (await did('images.removeSnapshot', { dir })),
      rootfsMounts: async () => [],
      viewMounts: async () => [],
      lookUpUser: async () => ({ uid: 0, gid: 0, additionalGids: [0] }),
      pullKey: (reference) => reference,
      resolve: async (reference) => (await did('images.resolve', reference)) as Awaited<ReturnType<Images['resolve']>>,
      async fetchLayers(_, { signal }) {
        const gone = Promise.withResolvers<never>();
        signal?.addEventListener('abort', () => gone.reject(new SluiceError('CALLER_GONE', 'cancelled')));
        return ((await Promise.race([did('images.fetchLayers'), gone.promise])) as string[] | undefined) ?? [];
      },
      async commit() {
        calls.push('images.commit');
        return image('pulled:1');
      },
      release: (layers) => void calls.push(`images.release ${layers.join(' ')}`.trimEnd()),
      sweep: async () => void (await did('images.sweep')),
    }),
    specs: new BundleSpecs(),
    shims: fake<Shims>('shims', {
      directStarts: new DirectStartPolicy(),
      get: (id) => (shims.get(id)?.state === 'alive' ? shims.get(id)?.shim : undefined),
      async connect(id, row) {
        await did('shims.connect', id);
        const made = new FakeShim(id, row, did);
        shims.set(id, made);
        return made.shim;
      },
      async reattach(id): Promise<Reattached> {
        const found = shims.get(id);
        if (!found || found.state === 'dead') return { state: 'dead' };
        if (found.state === 'unknown') return { state: 'unknown', reason: 'no answer' };
        return { state: 'alive', shim: found.shim };
      },
      probe: async () => {},
      async shutdown({ pod: id }) {
        await did('shims.shutdown', id);
        shims.get(id)?.die();
        shims.delete(id);
      },
      forget: (id) => void shims.delete(id),
    }),
    shimAddresses: { grpc: '/run/sluice.sock', ttrpc: '/run/events.sock', publishBinary: '/usr/bin/true' },
    shimSocketDir: '/run/s',
    pinFolder: '/run/sluice/held/ns',
    stdio: fake<Stdio>('stdio', {
      openIo: async (io) => void (await did('stdio.openIo', io)),
      async drain(id) {
        await did('stdio.drain', id);
        return { complete: true };
      },
      removeIo: async (io) => void (await did('stdio.removeIo', io)),
    }),
    ending: ending.signal,
  };
  const locks = new Locks();
  const exits = new ExitWatch(basis, locks);
  const ctx: JobContext = { ...basis, exits };
  const engine = new Engine({ limits: config.pipeline.limits, observer: jobs.observer, undoTimeoutMs: 1000 });
  const admission = new Admission({ maxRunning: { launch: 10, teardown: 10, image: 10 }, maxQueued: 100 });
  const retries = new RetryQueue({ firstDelayMs: retryMs, lastDelayMs: retryMs });
  const runner = new Runner({ engine, observer: jobs.observer, admission });
  const services: JobServices = { ctx, runner, locks, retries };
  const pulls = new Pulls(services);
  const containers = new Containers(services);
  const pods = new Pods(services, { containers, pulls });

  const podRequest: JobLab['podRequest'] = (over, runtimeHandler = '') => ({ config: pod(over), runtimeHandler });
  const containerRequest: JobLab['containerRequest'] = (podSandboxId, over) => ({
    podSandboxId,
    config: container({
      image: imageSpec(IMAGE),
      ...over,
    }),
    sandboxConfig: undefined,
  });
  return {
    ctx,
    services,
    containers,
    pods,
    pulls,
    exits,
    locks,
    jobs,
    lines,
    calls,
    hooks,
    counted,
    shims,
    images,
    ending,
    published,
    podRequest,
    containerRequest,
    async launch(over) {
      const id = await pods.run(podRequest(over), {});
      const row = tables.sandboxes.get(id);
      if (!row) throw new Error(`the launch left no row ${id}`);
      return row;
    },
    async add(sandbox, over, { start } = { start: true }) {
      const id = await containers.create(containerRequest(sandbox.id, over), {});
      if (start) await containers.start(id, {});
      return containers.get(id);
    },
    [Symbol.dispose]() {
      ending.abort();
      retries[Symbol.dispose]();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** Resolves when `holds` is true; fails after a second. */
export async function eventually(holds: () => boolean): Promise<void> {
  const limit = performance.now() + 1000;
  while (!holds()) {
    if (performance.now() > limit) throw new Error(`not within a second: ${holds}`);
    await sleep(1);
  }
}
