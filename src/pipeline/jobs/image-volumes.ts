import { join } from 'node:path';
import { SluiceError } from '../../errors.ts';
import { usernsPath } from '../../node/oci/pod-userns.ts';
import type { ContainerRow } from '../../node/store/container.ts';
import type { SandboxRow } from '../../node/store/sandbox.ts';
import { namesIn } from '../../sys/folder.ts';
import type { MountRootfs } from '../../workers/shim/rootfs.ts';
import type { JobContext } from './context.ts';

/** Where a pod's image volumes are mounted, each under the hex digits of its image's id. */
export const imageVolumesFolder = ({ stateDir }: SandboxRow): string => join(stateDir, 'image-volumes');

/**
 * Mounts the images that a container wants as volumes, read-only and once for each pod and image, and returns the
 * folder on the host for each path in the container. Throws INVALID_REQUEST with the kubelet reason
 * ImageVolumeMountFailed.
 */
export async function imageVolumes(
  row: ContainerRow,
  sandbox: SandboxRow,
  ctx: JobContext,
): Promise<Record<string, string>> {
  const folders: Record<string, string> = {};
  row.imageMounts = [];
  for (const { image, containerPath, imageSubPath } of row.config.mounts) {
    if (!image?.image) continue;
    try {
      const found = ctx.images.find(image.image);
      if (!found) throw SluiceError.of('IMAGE_NOT_FOUND', image.image);
      const target = join(imageVolumesFolder(sandbox), found.id.replace('sha256:', ''));
      await mountOnce({ target, mounts: await ctx.images.viewMounts(found), userns: usernsPath(sandbox) }, ctx);
      folders[containerPath] =
        imageSubPath === ''
          ? target
          : await ctx.pools.shim.call('imageSubFolder', { root: target, subPath: imageSubPath });
      row.imageMounts.push({ containerPath, imageRef: found.id });
    } catch (cause) {
      throw new SluiceError('INVALID_REQUEST', `the image volume at ${containerPath}`, {
        cause,
        kubeletReason: 'ImageVolumeMountFailed',
      });
    }
  }
  return folders;
}

/** Unmounts all image volumes of a pod; done when it stops. */
export async function unmountImageVolumes(sandbox: SandboxRow, ctx: JobContext): Promise<void> {
  const folder = imageVolumesFolder(sandbox);
  const names = await namesIn(folder);
  if (names.length > 0) await ctx.pools.shim.call('removeFolder', { path: folder, mountPoints: names });
}

const mounting = new Map<string, Promise<void>>();

/** Two containers of a pod may name the same image at the same time: they share one mount. */
function mountOnce(view: MountRootfs, ctx: JobContext): Promise<void> {
  const { target } = view;
  const mount = () => ctx.pools.shim.call('mountImageVolume', view).finally(() => mounting.delete(target));
  const running = mounting.get(target) ?? mount();
  mounting.set(target, running);
  return running;
}
