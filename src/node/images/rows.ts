import type { ImageConfig } from '../oci/image-config.ts';
import type { ImageFile } from './platform.ts';

/** An image on the node. Without any name it has been removed and is only kept for the containers that run from it. */
export interface ImageRow {
  /** Digest of the image's config, for example sha256:2f…: what CRI calls the image's id. */
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
   * "" when the archive brings all of its folders. Else it has taken some folders' owners and modes from the layers below it, of
   * which this is the chainID ("bottom" where there are none), and fits on no others.
   */
  base: string;
  /** What it takes on the disk. */
  bytes: number;
  inodes: number;
  /** False while it is fetched and while it is removed; such a row is removed by the next start. */
  ready: boolean;
}
