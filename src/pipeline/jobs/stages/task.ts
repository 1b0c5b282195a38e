import { idMapped } from '../../../node/oci/pod-userns.ts';
import { filled, type PodLaunch } from '../launch.ts';
import { runtimeOptions } from '../runtime-options.ts';

/** Task.Create of the pause container: the shim mounts the rootfs and runs `runc create`. Undone with the shim. */
export const create = {
  async run({ node, row, runtime, shim, image }: PodLaunch): Promise<void> {
    row.pid = await filled(shim, 'shim').task.create({
      id: row.id,
      bundle: row.bundle,
      rootfs: idMapped(node.images.rootfsMounts(filled(image, 'image'), row.snapshot), row.config),
      runtime: runtimeOptions(node, runtime),
    });
  },
};

/** Task.Start: `runc start`. */
export const start = {
  async run({ row, shim }: PodLaunch): Promise<void> {
    row.pid = await filled(shim, 'shim').task.start(row.id);
  },
};
