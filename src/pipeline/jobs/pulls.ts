import type { AuthConfig } from '../../../proto/gen/cri.ts';
import { codeOf, SluiceError } from '../../errors.ts';
import type { LayerProgress } from '../../node/images/layer-store.ts';
import type { ImageRow } from '../../node/images/rows.ts';
import { METRICS } from '../../node/observe/table.ts';
import { type Caller, Joins } from '../engine/join.ts';
import type { JobRun } from '../engine/observer.ts';
import type { JobServices } from './context.ts';
import { launchPriority, PRIORITY } from './priority.ts';
import type { PullState } from './stages/pull-image.ts';
import { pullImage } from './tables/pull-image.ts';

export interface PullRequest {
  image: string;
  auth?: AuthConfig;
  /** Namespace of the pod that the image is for, where the caller says it. */
  namespace?: string;
}

/** A pull in flight, for people who watch it. */
export interface PullProgress {
  image: string;
  layers: readonly LayerProgress[];
}

const causes = METRICS.imageFailures.labels.cause;

/** Tries to get a pull of its own, for a caller that joins one which is being cancelled. */
const JOIN_TRIES = 5;

/** Image pulls: those of the same image with the same login are one. */
export class Pulls {
  readonly #services: JobServices;
  readonly #pulls: Joins<ImageRow, { job?: JobRun }>;
  readonly #progress = new Set<PullProgress>();

  constructor(services: JobServices) {
    const { ctx, runner } = services;
    this.#services = services;
    this.#pulls = new Joins({
      // An image that is on the node needs nobody to claim it.
      claimTtlMs: 0,
      onUnclaimed: () => {},
      onJoin: ({ job }) => {
        ctx.metrics.inc('imageJoined', {});
        if (job) runner.observer.jobJoined(job);
      },
    });
  }

  /** Pulls in flight. */
  get running(): number {
    return this.#pulls.running;
  }

  get progress(): readonly PullProgress[] {
    return [...this.#progress];
  }

  /**
   * Pulls an image, or waits for the pull that is in flight. When its last caller leaves, the pull is cancelled; layers
   * that another pull wants go on for that one. Throws INVALID_REQUEST, IMAGE_NOT_FOUND, IMAGE_INVALID,
   * REGISTRY_DENIED, REGISTRY_UNAVAILABLE, DISK_FULL, TIMED_OUT.
   */
  async pull(request: PullRequest, caller: Caller): Promise<ImageRow> {
    const { ctx } = this.#services;
    const key = ctx.images.pullKey(request.image, request.auth);
    for (let tries = 1; ; tries++) {
      try {
        return await this.#join(key, request, caller);
      } catch (error) {
        const isOthers = codeOf(error) === 'CALLER_GONE' && !caller.left?.aborted;
        if (!isOthers || tries === JOIN_TRIES) throw error;
      }
    }
  }

  #join(key: string, request: PullRequest, caller: Caller): Promise<ImageRow> {
    const { runner } = this.#services;
    const priority = launchPriority(request.namespace);
    const tag: { job?: JobRun } = {};
    return this.#pulls.run(key, caller, tag, (abandoned) =>
      runner.job(
        {
          start: { job: 'PullImage', image: request.image, traceparent: caller.traceparent },
          priority,
          admit: { abandoned },
          onQueued: (job) => {
            tag.job = job;
          },
        },
        (job) => this.#run(job, request, abandoned),
      ),
    );
  }

  async #run(job: JobRun, { image, auth, namespace }: PullRequest, signal: AbortSignal): Promise<ImageRow> {
    const { ctx, runner } = this.#services;
    const began = performance.now();
    const row = { reference: image, held: [] };
    const priority = launchPriority(namespace);
    const urgent = priority > PRIORITY.normal;
    const state: PullState = { ctx, row, auth, signal, urgent, progress: [] };
    const shown = { image, layers: state.progress };
    this.#progress.add(shown);
    let outcome: 'ok' | 'error' = 'error';
    try {
      await runner.engine.run(pullImage, state, job, priority);
      if (!state.image) throw new SluiceError('INTERNAL', `the pull of ${image} ended without an image`);
      outcome = 'ok';
      return state.image;
    } catch (error) {
      const code = codeOf(error);
      if (code === 'CALLER_GONE') ctx.metrics.inc('imageCancelled', {});
      else ctx.metrics.inc('imageFailures', { cause: causes.find((cause) => cause === code) ?? 'other' });
      throw error;
    } finally {
      this.#progress.delete(shown);
      ctx.metrics.observe('imagePull', { outcome }, (performance.now() - began) / 1000);
      ctx.images.release(row.held.splice(0));
      // The image that had the tag before may be without any name now.
      ctx.images.sweep().catch((err) => ctx.log.warn({ err }, 'layers of no image could not be removed'));
    }
  }
}
