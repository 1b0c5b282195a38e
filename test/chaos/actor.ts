/**
 * One of the parallel callers of a storm: takes a pod through its life, a request at a time, until the daemon dies
 * under it.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { PortMapping, Protocol } from '../../proto/gen/cri.ts';
import type { Cri } from '../rig/cri.ts';
import { containerConfig, imageSpec, podConfig } from '../rig/messages.ts';
import { GivenUp, waitFor } from '../rig/proc.ts';
import {
  awaitEnd,
  type ContainerEntry,
  checkEnd,
  logPath,
  noteLaunch,
  type PodEntry,
  type Report,
  wrongLog,
} from './ledger.ts';
import type { Random } from './random.ts';

/** What all actors of a storm share. */
export interface Scene {
  cri: Cri;
  /** Private folder: logs of containers go below it. */
  folder: string;
  cgroupParent: string;
  image: string;
  /** Keys of {@link HANDLERS}. */
  handlers: readonly string[];
  /** Small images to pull and remove. */
  others: readonly string[];
  random: Random;
  report: Report;
  /** False from the end of the daemon to its next start. */
  alive: () => boolean;
  /** All pods that the daemon was asked for and that are not removed. */
  pods: Set<PodEntry>;
  /** Ids of pods and containers whose removal was acknowledged. */
  removed: Set<string>;
  counts: Record<'launches' | 'containers' | 'removals' | 'pulls', number>;
}

const TIMEOUT = { timeoutMs: 120_000 };
const CONTAINERS = 2;
/** Runtime handlers by name: the default one, pods with a pause process, pods that share shims. */
export const HANDLERS: Record<string, Record<string, unknown>> = {
  '': {},
  pause: { binary: 'runc', sandbox_mode: 'pause' },
  shared: { binary: 'runc', pods_per_shim: 4 },
};

export class Actor {
  readonly #scene: Scene;
  readonly #number: number;
  #pod: PodEntry | undefined;
  #generation = 0;

  constructor(scene: Scene, number: number) {
    this.#scene = scene;
    this.#number = number;
  }

  /** The next request of the pod's life. Rejects when it fails. */
  async step(): Promise<void> {
    const { pods, random } = this.#scene;
    if (this.#pod && !pods.has(this.#pod)) {
      // Removed; or its launch was interrupted and left nothing, and is asked for again under the same name.
      this.#pod = this.#pod.phase === 'launching' ? this.#pod : undefined;
      if (this.#pod) return this.#launch(this.#pod);
    }
    if (!this.#pod) {
      if (random.chance(0.1)) return this.#pullOrRemoveImage();
      this.#pod = this.#newPod();
      return this.#launch(this.#pod);
    }
    const pod = this.#pod;
    if (pod.phase !== 'ready') return this.#takeDown(pod);
    const open = pod.containers.find((one) => one.phase !== 'ended');
    if (open) return this.#advance(pod, open);
    if (pod.containers.length < CONTAINERS && random.chance(0.7)) return this.#create(pod, this.#newContainer(pod));
    const [ended] = pod.containers;
    if (ended && random.chance(0.5)) return this.#removeContainer(pod, ended);
    return this.#takeDown(pod);
  }

  #newPod(): PodEntry {
    const { folder, cgroupParent, random } = this.#scene;
    const name = `storm-${this.#number}-${this.#generation++}`;
    const logDirectory = join(folder, 'logs', name);
    mkdirSync(logDirectory, { recursive: true });
    const port = { ...PortMapping.decode(new Uint8Array()), protocol: Protocol.TCP, containerPort: 80 };
    const portMappings = random.chance(0.2) ? [{ ...port, hostPort: 31000 + this.#number }] : [];
    const config = podConfig(name, { cgroupParent, logDirectory, portMappings });
    const handler = this.#scene.handlers[random.between(0, this.#scene.handlers.length - 1)] ?? '';
    return { phase: 'launching', config, handler, id: '', address: '', createdAt: 0n, containers: [] };
  }

  async #launch(pod: PodEntry): Promise<void> {
    const { cri, pods, counts } = this.#scene;
    pods.add(pod);
    pod.id = (await cri.runPodSandbox({ config: pod.config, runtimeHandler: pod.handler }, TIMEOUT)).podSandboxId;
    pod.phase = 'ready';
    counts.launches++;
    await noteLaunch(cri, pod);
  }

  /**
   * A shell that prints counted lines, slowly, so that the daemon often dies between two, and ends with a known code.
   */
  #newContainer(pod: PodEntry): ContainerEntry {
    const { random, image } = this.#scene;
    const lines = random.between(1, 30);
    const exitCode = random.between(0, 99);
    const endsAlone = random.chance(0.6);
    const print = `i=1; while [ $i -le ${lines} ]; do echo "line $i"; i=$((i+1)); ${random.chance(0.5) ? 'sleep 0.02;' : ''} done`;
    const wait = `trap 'echo "line ${lines + 1}"; exit ${exitCode}' TERM; ${print}; sleep 3600 & wait`;
    const name = `c${this.#generation++}`;
    const command = ['sh', '-c', endsAlone ? `${print}; exit ${exitCode}` : wait];
    const config = containerConfig(name, image, command, { logPath: `${name}.log` });
    const logFile = logPath(pod.config, config);
    const fresh = { phase: 'creating', id: '', spoilt: false, killed: false, wrong: false } as const;
    return { ...fresh, config, logFile, lines, endsAlone, exitCode };
  }

  async #create(pod: PodEntry, container: ContainerEntry): Promise<void> {
    const { cri } = this.#scene;
    if (!pod.containers.includes(container)) pod.containers.push(container);
    const request = { podSandboxId: pod.id, config: container.config, sandboxConfig: pod.config };
    container.id = (await cri.createContainer(request, TIMEOUT)).containerId;
    container.phase = 'created';
  }

  async #advance(pod: PodEntry, container: ContainerEntry): Promise<void> {
    const { cri, counts, report } = this.#scene;
    switch (container.phase) {
      case 'creating':
        return this.#create(pod, container);
      case 'created':
        container.phase = 'starting';
        await cri.startContainer({ containerId: container.id }, TIMEOUT);
        container.phase = 'started';
        counts.containers++;
        return;
      case 'started':
        if (container.spoilt) return this.#removeContainer(pod, container);
        if (container.endsAlone) {
          await awaitEnd(cri, container, this.#scene.alive);
        } else {
          await this.#awaitLines(container);
          container.phase = 'stopping';
          await cri.stopContainer({ containerId: container.id, timeout: 30n }, TIMEOUT);
        }
        container.phase = 'ended';
        return checkEnd(cri, pod, container, report);
      case 'stopping':
        await cri.stopContainer({ containerId: container.id, timeout: 30n }, TIMEOUT);
        container.phase = 'ended';
        return checkEnd(cri, pod, container, report);
      default:
        return this.#removeContainer(pod, container);
    }
  }

  /** A stop in between would cut the lines short. What is missing then is found at the container's end. */
  async #awaitLines({ logFile, lines }: ContainerEntry): Promise<void> {
    const look = () => {
      if (!this.#scene.alive()) throw new GivenUp('the daemon has been killed');
      return wrongLog(logFile, lines) === undefined || undefined;
    };
    await waitFor(`${lines} lines in ${logFile}`, 5000, look).catch((error: Error) => {
      if (error instanceof GivenUp) throw error;
    });
  }

  async #removeContainer(pod: PodEntry, container: ContainerEntry): Promise<void> {
    const { cri, removed } = this.#scene;
    container.phase = 'removing';
    await cri.removeContainer({ containerId: container.id }, TIMEOUT);
    removed.add(container.id);
    pod.containers.splice(pod.containers.indexOf(container), 1);
  }

  async #takeDown(pod: PodEntry): Promise<void> {
    const { cri, random, pods, removed, counts } = this.#scene;
    for (const container of pod.containers) if (container.phase !== 'ended') container.killed = true;
    if (pod.phase === 'ready' || pod.phase === 'stopping') {
      // Kubelet stops a pod before it removes it; a removal alone has to do both.
      if (random.chance(0.8)) {
        pod.phase = 'stopping';
        await cri.stopPodSandbox({ podSandboxId: pod.id }, TIMEOUT);
        pod.phase = 'stopped';
        return;
      }
    }
    pod.phase = 'removing';
    await cri.removePodSandbox({ podSandboxId: pod.id }, TIMEOUT);
    for (const { id } of [pod, ...pod.containers]) removed.add(id);
    pods.delete(pod);
    this.#pod = undefined;
    counts.removals++;
  }

  async #pullOrRemoveImage(): Promise<void> {
    const { cri, others, random, counts } = this.#scene;
    const reference = others[random.between(0, others.length - 1)];
    if (reference === undefined) return;
    const image = imageSpec(reference);
    if (random.chance(0.5)) {
      await cri.pullImage({ image }, TIMEOUT);
      counts.pulls++;
    } else await cri.removeImage({ image }, TIMEOUT);
  }
}
