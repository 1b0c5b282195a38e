import type { AuthConfig } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import type { ImageRow } from '../../node/images/rows.ts';
import { type Caller, Joins } from '../engine/join.ts';
import type { JobRun } from '../engine/observer.ts';
import type { JobServices } from './context.ts';
import { PRIORITY } from './priority.ts';
import type { PullState } from './stages/pull-image.ts';
import { pullImage } from './tables/pull-image.ts';

/** Image pulls: those of the same image with the same login are one. */
export class Pulls {
  readonly #services: JobServices;
  readonly #pulls: Joins<ImageRow, { job?: JobRun }>;

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

  /**
   * Pulls an image, or waits for the pull that is in flight. A caller that leaves stops waiting; a pull that has begun goes on.
   * Throws INVALID_REQUEST, IMAGE_NOT_FOUND, IMAGE_INVALID, REGISTRY_DENIED, REGISTRY_UNAVAILABLE, DISK_FULL, TIMED_OUT.
   */
  async pull({ image, auth }: { image: string; auth?: AuthConfig }, caller: Caller): Promise<ImageRow> {
    const { ctx, runner } = this.#services;
    const key = ctx.images.pullKey(image, auth);
    const tag: { job?: JobRun } = {};
    return this.#pulls.run(key, caller, tag, (abandoned) =>
      runner.job(
        {
          start: { job: 'PullImage', image, traceparent: caller.traceparent },
          priority: PRIORITY.normal,
          admit: { abandoned },
          onQueued: (job) => {
            tag.job = job;
          },
        },
        (job) => this.#run(job, image, auth),
      ),
    );
  }

  async #run(job: JobRun, image: string, auth: AuthConfig | undefined): Promise<ImageRow> {
    const { ctx, runner } = this.#services;
    const began = performance.now();
    const row = { reference: image, held: [] };
    const state: PullState = { ctx, row, auth };
    let outcome: 'ok' | 'error' = 'error';
    try {
      await runner.engine.run(pullImage, state, job, PRIORITY.normal);
      if (!state.image) throw new SluiceError('INTERNAL', `the pull of ${image} ended without an image`);
      outcome = 'ok';
      return state.image;
    } finally {
      ctx.metrics.observe('imagePull', { outcome }, (performance.now() - began) / 1000);
      ctx.images.release(row.held.splice(0));
      // The image that had the tag before may be without any name now.
      ctx.images.sweep().catch((err) => ctx.log.warn({ err }, 'layers of no image could not be removed'));
    }
  }
}
