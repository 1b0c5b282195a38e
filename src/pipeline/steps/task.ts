import { filled, type PodLaunch } from '../launch.ts';
import { runtimeOptions } from '../runtime-options.ts';
import { idMapped } from '../userns.ts';

/** Task.Create of the pause container: the shim mounts the rootfs and runs `runc create`. Undone with the shim. */
export const create = {
  async run({ node, row, runtime, shim, image }: PodLaunch): Promise<void> {
    const { task } = filled(shim, 'shim');
    const created = task.create({
      id: row.id,
      bundle: row.bundle,
      rootfs: idMapped(node.images.rootfsMounts(filled(image, 'image'), row.snapshot), row.config),
      runtime: runtimeOptions(node, runtime),
    });
    // A slow runtime gets minutes; a shim that does not even say what it knows (nothing yet) within seconds is deaf.
    [row.pid] = await Promise.all([created, task.state(row.id)]);
  },
};

/** Task.Start: `runc start`. */
export const start = {
  async run({ row, shim }: PodLaunch): Promise<void> {
    row.pid = await filled(shim, 'shim').task.start(row.id);
  },
};
