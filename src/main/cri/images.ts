/** The verbs of images: all of ImageService. */
import type { FilesystemUsage, ImageFilter, ImageSpec } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import { chainIdOf } from '../../node/images/digest.ts';
import type { ImageRow } from '../../node/images/rows.ts';
import { batches, type ImageVerbs, noInfo } from './call.ts';
import type { CriServices } from './services.ts';
import { toImage } from './views.ts';

export const imageVerbs = ({ images, pulls }: Pick<CriServices, 'images' | 'pulls'>): ImageVerbs => ({
  listImages({ filter }) {
    return { images: matching(images, filter).map((row) => toImage(images, row)) };
  },

  /** The same in batches (KEP-5825). */
  *streamImages({ filter }) {
    for (const rows of batches(matching(images, filter))) yield { images: rows.map((row) => toImage(images, row)) };
  },

  /** An image that the node does not have is not an error: the answer is empty. */
  imageStatus({ image, verbose }) {
    const row = images.find(nameIn(image));
    if (!row) return { image: undefined, info: noInfo() };
    return { image: toImage(images, row), info: verbose ? { info: JSON.stringify(inspect(row)) } : noInfo() };
  },

  /** Answers with the image's id, by which all verbs name images. */
  async pullImage({ image, auth, sandboxConfig }, call) {
    const namespace = sandboxConfig?.metadata?.namespace;
    return { imageRef: (await pulls.pull({ image: nameIn(image), auth, namespace }, call)).id };
  },

  /** Removes an image under all its names, whichever one was given. An unknown one is removed already. */
  async removeImage({ image }) {
    const row = images.find(nameIn(image));
    if (row) await images.remove(row);
    return {};
  },

  /** Images and writable layers share a file system: kubelet compares the mount points and counts the space once. */
  async imageFsInfo() {
    const { timestamp, image, containers } = await images.fsInfo();
    const usage = ({ bytes, inodes }: { bytes: bigint; inodes: bigint }): FilesystemUsage => ({
      timestamp,
      fsId: { mountpoint: images.mountpoint },
      usedBytes: { value: bytes },
      inodesUsed: { value: inodes },
    });
    return { imageFilesystems: [usage(image)], containerFilesystems: [usage(containers)] };
  },
});

function nameIn(image: ImageSpec | undefined): string {
  if (!image?.image) throw new SluiceError('INVALID_REQUEST', 'image.image is empty: it has to name an image');
  return image.image;
}

/** A filter names one image, by whatever ImageStatus takes; an unknown one gives an empty list. */
function matching(images: CriServices['images'], filter: ImageFilter | undefined): ImageRow[] {
  const wanted = filter?.image?.image;
  if (!wanted) return images.list();
  const row = images.find(wanted);
  return row ? [row] : [];
}

/** The keys that users of `crictl inspecti` read with containerd. */
function inspect({ config, file }: ImageRow): object {
  return { chainID: chainIdOf(file.rootfs.diff_ids), imageSpec: { ...file, config } };
}
