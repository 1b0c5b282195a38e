/**
 * One of the parallel callers of a storm: takes a pod through its life, a request at a time, until the daemon dies
 * under it.
 */
import { imageSpec } from '../rig/messages.ts';
import type { ContainerEntry, PodEntry } from './ledger.ts';
import type { Random } from './random.ts';
import {
  advance,
  create,
  launch,
  newContainer,
  newPod,
  removeContainer,
  removePod,
  type Scene,
  stopPod,
  TIMEOUT,
} from './requests.ts';

const CONTAINERS = 2;

export interface ActorOptions {
  /** Of its containers. */
  image: string;
  /** Keys of `HANDLERS` in requests.ts. */
  handlers: readonly string[];
  /** Small images to pull and remove. */
  others: readonly string[];
  random: Random;
}

export class Actor {
  readonly #scene: Scene;
  readonly #options: ActorOptions;
  readonly #number: number;
  #pod: PodEntry | undefined;
  #generation = 0;

  constructor(scene: Scene, options: ActorOptions, number: number) {
    this.#scene = scene;
    this.#options = options;
    this.#number = number;
  }

  /** The next request of the pod's life. Rejects when it fails. */
  async step(): Promise<void> {
    const scene = this.#scene;
    const { random } = this.#options;
    if (this.#pod && !scene.pods.has(this.#pod)) {
      // Removed; or its launch was interrupted and left nothing, and is asked for again under the same name.
      this.#pod = this.#pod.phase === 'launching' ? this.#pod : undefined;
      if (this.#pod) return launch(scene, this.#pod);
    }
    if (!this.#pod) {
      if (random.chance(0.1)) return this.#pullOrRemoveImage();
      this.#pod = this.#newPod();
      return launch(scene, this.#pod);
    }
    const pod = this.#pod;
    if (pod.phase !== 'ready') return this.#takeDown(pod);
    const open = pod.containers.find((one) => one.phase !== 'ended');
    if (open) return advance(scene, pod, open);
    if (pod.containers.length < CONTAINERS && random.chance(0.7)) return create(scene, pod, this.#newContainer(pod));
    const [ended] = pod.containers;
    if (ended && random.chance(0.5)) return removeContainer(scene, pod, ended);
    return this.#takeDown(pod);
  }

  #newPod(): PodEntry {
    const { random, handlers } = this.#options;
    const name = `storm-${this.#number}-${this.#generation++}`;
    const hostPort = random.chance(0.2) ? 31000 + this.#number : undefined;
    const handler = handlers[random.between(0, handlers.length - 1)] ?? '';
    return newPod(this.#scene, name, handler, hostPort);
  }

  #newContainer(pod: PodEntry): ContainerEntry {
    const { random, image } = this.#options;
    return newContainer(pod, {
      name: `c${this.#generation++}`,
      image,
      lines: random.between(1, 30),
      exitCode: random.between(0, 99),
      endsAlone: random.chance(0.6),
      slow: random.chance(0.5),
    });
  }

  async #takeDown(pod: PodEntry): Promise<void> {
    // Kubelet stops a pod before it removes it; a removal alone has to do both.
    const stopFirst = pod.phase === 'ready' || pod.phase === 'stopping';
    if (stopFirst && this.#options.random.chance(0.8)) return stopPod(this.#scene, pod);
    await removePod(this.#scene, pod);
    this.#pod = undefined;
  }

  async #pullOrRemoveImage(): Promise<void> {
    const { cri, counts } = this.#scene;
    const { others, random } = this.#options;
    const reference = others[random.between(0, others.length - 1)];
    if (reference === undefined) return;
    const image = imageSpec(reference);
    if (random.chance(0.5)) {
      await cri.pullImage({ image }, TIMEOUT);
      counts.pulls++;
    } else await cri.removeImage({ image }, TIMEOUT);
  }
}
