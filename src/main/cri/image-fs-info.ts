import type { FilesystemUsage, ImageFsInfoRequest, ImageFsInfoResponse } from '../../../proto/gen/cri.ts';
import type { Unary } from './call.ts';
import type { CriServices as Node } from './services.ts';

/** Images and writable layers share a file system; the kubelet sees that by the mount point and does not count twice. */
export const imageFsInfo =
  (node: Node): Unary<ImageFsInfoRequest, ImageFsInfoResponse> =>
  async () => {
    const { timestamp, image, containers } = await node.images.fsInfo();
    const usage = ({ bytes, inodes }: { bytes: bigint; inodes: bigint }): FilesystemUsage => ({
      timestamp,
      fsId: { mountpoint: node.images.mountpoint },
      usedBytes: { value: bytes },
      inodesUsed: { value: inodes },
    });
    return { imageFilesystems: [usage(image)], containerFilesystems: [usage(containers)] };
  };
