import { readdir } from 'node:fs/promises';
import type { AuthConfig } from '../../../proto/gen/cri.ts';
import { codeOf, explain, SluiceError } from '../../errors.ts';
import type { ImageRow } from '../../node/images/rows.ts';
import { type Caller, Joins } from '../engine/join.ts';
import type { JobRun } from '../engine/observer.ts';
import type { Node } from './context.ts';
import { imageVolumesFolder } from './image-volumes.ts';
import { PRIORITY } from './priority.ts';
import type { PullState } from './stages/pull-image.ts';
import { pullImage } from './tables/pull-image.ts';

export interface PullCaller extends Caller {
  traceparent?: string;
}

/** The words that kubelet looks for at the beginning (cri-api pkg/errors); it then shows this as the reason. */
const UNAVAILABLE = 'RegistryUnavailable';

/** Image pulls: those that mean the same image with the same login are one. */
export class Pulls {
  readonly #node: Node;
  readonly #pulls: Joins<ImageRow>;
  /** The jobs in flight, so that a joining caller can be told of. */
  readonly #jobs = new Map<string, JobRun>();

  constructor(node: Node) {
    this.#node = node;
    this.#pulls = new Joins({
      // An image that is there needs nobody to claim it.
      claimTtlMs: 0,
      onUnclaimed: () => {},
      onJoin: (key) => {
        node.metrics.inc('imageJoined', {});
        const job = this.#jobs.get(key);
        if (job) node.observer.jobJoined(job);
      },
    });
    watchImages(node);
  }

  /** Pulls in flight. */
  get running(): number {
    return this.#jobs.size;
  }

  /**
   * Pulls an image, or waits for the pull that is in flight. A caller that leaves stops waiting; a pull that has begun goes on.
   * Throws INVALID_REQUEST, IMAGE_NOT_FOUND, IMAGE_INVALID, REGISTRY_DENIED, REGISTRY_UNAVAILABLE, DISK_FULL, TIMED_OUT.
   */
  async pull({ image, auth }: { image: string; auth?: AuthConfig }, caller: PullCaller): Promise<ImageRow> {
    const key = this.#node.images.pullKey(image, auth);
    return this.#pulls.run(key, caller, (abandoned) => this.#pull(key, image, auth, { ...caller, left: abandoned }));
  }

  async #pull(key: string, image: string, auth: AuthConfig | undefined, caller: PullCaller): Promise<ImageRow> {
    const { observer, admission } = this.#node;
    const job = observer.jobQueued({ job: 'PullImage', image, traceparent: caller.traceparent });
    this.#jobs.set(key, job);
    try {
      const admit = { lane: 'image', priority: PRIORITY.normal, abandoned: caller.left } as const;
      const row = await admission.run(admit, () => this.#pullNow(job, image, auth));
      observer.jobEnded(job, undefined);
      return row;
    } catch (cause) {
      const error = forKubelet(cause);
      observer.jobEnded(job, error);
      throw error;
    } finally {
      this.#jobs.delete(key);
    }
  }

  async #pullNow(job: JobRun, image: string, auth: AuthConfig | undefined): Promise<ImageRow> {
    const node = this.#node;
    const began = performance.now();
    const row = { reference: image, held: [] };
    const state: PullState = { node, row, auth };
    let outcome: 'ok' | 'error' = 'error';
    node.observer.jobStarted(job);
    try {
      await node.engine.run(pullImage, state, job, PRIORITY.normal);
      if (!state.image) throw new SluiceError('INTERNAL', `the pull of ${image} ended without an image`);
      outcome = 'ok';
      return state.image;
    } finally {
      node.metrics.observe('imagePull', { outcome }, (performance.now() - began) / 1000);
      node.images.release(row.held.splice(0));
      // The image that had the tag before may be without any name now.
      node.images.sweep().catch((err) => node.log.warn({ err }, 'layers of no image could not be removed'));
    }
  }
}

/** One message, beginning with the word that kubelet knows where the registry is the trouble. */
function forKubelet(cause: unknown): Error {
  const code = codeOf(cause);
  const stage = cause instanceof SluiceError ? cause.stage : undefined;
  if (code !== 'REGISTRY_UNAVAILABLE') return cause instanceof Error ? cause : new Error(String(cause));
  const words = explain(cause).replaceAll(`${UNAVAILABLE}: `, '');
  return new SluiceError(code, `${UNAVAILABLE}: ${words}`, { stage });
}

function watchImages(node: Node): void {
  const { pools, metrics } = node;
  node.images.watch({
    usedImages: () => usedImages(node),
    diskUsage: (folder) => pools.shim.call('diskUsage', { folder }),
    userFiles: (dirs) => pools.shim.call('userFiles', { dirs }),
    removeLayer: (dir) => pools.shim.call('removeLayer', { dir }),
    installPause: (dir) => pools.shim.call('installPause', { dir }),
    onLayer: (result) => metrics.inc('imageLayers', { result }),
    onFetched: ({ seconds, error, downloaded, unpacked }) => {
      metrics.observe('imagePhase', { phase: 'layer', outcome: error ? 'error' : 'ok' }, seconds);
      metrics.inc('imageBytes', { kind: 'downloaded' }, downloaded);
      metrics.inc('imageBytes', { kind: 'unpacked' }, unpacked);
    },
    onRetry: () => metrics.inc('imageRetries', {}),
  });
}

/** Images that pods, containers and image volumes were made from. */
async function usedImages({ store }: Node): Promise<Set<string>> {
  const used = new Set<string>();
  // A volume stays mounted as long as its pod, also without the container that wanted it.
  const folders = await Promise.all([...store.sandboxes.values()].map((row) => namesIn(imageVolumesFolder(row))));
  for (const name of folders.flat()) used.add(`sha256:${name}`);
  for (const row of store.sandboxes.values()) used.add(row.image);
  for (const row of store.containers.values()) used.add(row.image);
  return used;
}

async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}
