import type { AuthConfig } from '../../../../proto/gen/cri.ts';
import type { LayerProgress } from '../../../node/images/layer-store.ts';
import type { Resolved } from '../../../node/images/resolve.ts';
import type { ImageRow } from '../../../node/images/rows.ts';
import { required } from '../../engine/stage.ts';
import type { JobContext, JobState } from '../context.ts';

/**
 * What the undo of a pull needs. It is kept in memory only: each layer has a row of its own, and those that no image
 * has are removed by the next start of the daemon.
 */
export interface PullRow {
  reference: string;
  /** Ids of the layers that are held for this pull. */
  held: string[];
}

export interface PullState extends JobState<PullRow> {
  auth: AuthConfig | undefined;
  /** Aborts when the last caller has left: layers that only this pull wants are dropped. */
  signal: AbortSignal;
  /** The pod is in kube-system. */
  urgent: boolean;
  progress: LayerProgress[];
  resolved?: Resolved;
  /** Ids, bottom first. */
  layers?: string[];
  image?: ImageRow;
}

export const resolve = {
  async run(state: PullState): Promise<void> {
    const { ctx, row, auth } = state;
    state.resolved = await timed(ctx, 'resolve', () => ctx.images.resolve(row.reference, auth));
  },
};

export const layers = {
  async run(state: PullState): Promise<void> {
    const { ctx, row } = state;
    state.layers = await ctx.images.fetchLayers(required(state.resolved, 'resolution'), {
      onHold: (id) => row.held.push(id),
      signal: state.signal,
      urgent: state.urgent,
      progress: state.progress,
    });
  },
  async undo(row: PullRow, ctx: JobContext): Promise<void> {
    ctx.images.release(row.held.splice(0));
    await ctx.images.sweep();
  },
};

export const commit = {
  async run(state: PullState): Promise<void> {
    const { ctx, resolved } = state;
    state.image = await timed(ctx, 'commit', () =>
      ctx.images.commit(required(resolved, 'resolution'), required(state.layers, 'list of layers')),
    );
  },
};

/** Layers are timed one by one, where they are fetched. */
async function timed<T>({ metrics }: JobContext, phase: 'resolve' | 'commit', work: () => Promise<T> | T): Promise<T> {
  const began = performance.now();
  let outcome: 'ok' | 'error' = 'error';
  try {
    const value = await work();
    outcome = 'ok';
    return value;
  } finally {
    metrics.observe('imagePhase', { phase, outcome }, (performance.now() - began) / 1000);
  }
}
