import type { AuthConfig } from '../../../../proto/gen/cri.ts';
import type { Resolved } from '../../../node/images/resolve.ts';
import type { ImageRow } from '../../../node/images/rows.ts';
import type { JobState } from '../../engine/stage.ts';
import type { Node } from '../context.ts';
import { filled } from '../launch.ts';

/**
 * What the undo of a pull needs. It is kept in memory only: each layer has a row of its own, and those that no image has are
 * removed by the next start of the daemon.
 */
export interface PullRow {
  reference: string;
  /** Ids of the layers that are held for this pull. */
  held: string[];
}

export interface PullState extends JobState<PullRow> {
  auth: AuthConfig | undefined;
  resolved?: Resolved;
  /** Ids, bottom first. */
  layers?: string[];
  image?: ImageRow;
}

export const resolve = {
  async run(state: PullState): Promise<void> {
    const { node, row, auth } = state;
    state.resolved = await timed(node, 'resolve', () => node.images.resolve(row.reference, auth));
  },
};

export const layers = {
  async run(state: PullState): Promise<void> {
    const { node, row } = state;
    state.layers = await node.images.fetchLayers(filled(state.resolved, 'resolution'), (id) => row.held.push(id));
  },
  async undo(row: PullRow, node: Node): Promise<void> {
    node.images.release(row.held.splice(0));
    await node.images.sweep();
  },
};

export const commit = {
  async run(state: PullState): Promise<void> {
    const { node, resolved } = state;
    state.image = await timed(node, 'commit', () =>
      node.images.commit(filled(resolved, 'resolution'), filled(state.layers, 'list of layers')),
    );
  },
};

/** Layers are timed one by one, where they are fetched. */
async function timed<T>({ metrics }: Node, phase: 'resolve' | 'commit', work: () => Promise<T> | T): Promise<T> {
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
