import type { ImageConfig } from '../oci/image-config.ts';
import type { ImageFile } from './image-file.ts';

/**
 * An image on the node. One without any name has been removed, and is only kept for the containers that run from it.
 */
export interface ImageRow {
  /**
   * Digest of the image's config (of an artifact: of its manifest), for example sha256:2f…. CRI calls it the image's
   * id.
   */
  id: string;
  /** registry/repository:tag, then registry/repository@digest (the digest of the index, where the tag leads to one). */
  names: string[];
  /** `config` of the image's config. */
  config: ImageConfig;
  /** The rest of it, for people who inspect the image. */
  file: Omit<ImageFile, 'config'>;
  /** Ids of the layers, bottom first. */
  layers: string[];
  /** Bytes of manifests, config and layers as the registry sends them. */
  size: number;
  /** What the registry sent, for an export with the original digests; absent for images of older versions. */
  blobs?: { manifest: BlobRow; config: BlobRow; layers: BlobRow[] };
  /** The native snapshotter has its layers as one tree, which takes this besides them. */
  merged?: { bytes: number; inodes: number };
  /** When it was last pulled or imported, in milliseconds since the epoch. */
  pulledAt?: number;
  /** The type of an OCI artifact, whose layers are files; absent for container images. */
  artifact?: string;
}

/** A blob of an image, as its manifest describes it. */
export interface BlobRow {
  digest: string;
  size: number;
  mediaType: string;
}

/** A layer, unpacked in <root>/layers/<id>/fs. */
export interface LayerRow {
  /** Name of the folder: short, since an overlay mount names all of them in one page. Never used twice. */
  id: string;
  /** Digest of the uncompressed archive. */
  diffId: string;
  /** Digest and size in bytes of the blob it came from; "" and 0 for what is built in. */
  digest: string;
  size: number;
  /**
   * "" when the archive brings all of its folders. Otherwise some folders have inherited owner and mode from the layers
   * below, whose chainID this is ("bottom" when there are none), and the layer can be used on no others.
   */
  base: string;
  /** How it says what it hides, where it is not as overlayfs wants it. */
  whiteouts?: 'files';
  /** A proxy snapshotter has it, under this name (its chainID), and `base` is the name of the one below. */
  snapshot?: string;
  /** What it occupies on the disk. */
  bytes: number;
  inodes: number;
  /** False while it is fetched and while it is removed; the next start removes such a row. */
  ready: boolean;
}
