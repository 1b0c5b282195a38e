import type { PodLaunch } from '../launch.ts';

/** The sandbox image: on the node almost always, pulled (together with everyone else who lacks it) when not. */
export const image = {
  async run(state: PodLaunch): Promise<void> {
    const { node, row } = state;
    const ref = node.images.sandboxImage;
    state.image = node.images.find(ref) ?? (await node.pulls.pull({ image: ref }, {}));
    row.image = state.image.id;
  },
};
