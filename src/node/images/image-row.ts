import type { ResolvedImage } from './resolve.ts';
import type { ImageRow } from './rows.ts';

/** The row of an image whose layers are on the node, without what it is called. */
export function rowOf(image: ResolvedImage, layers: string[]): Omit<ImageRow, 'names'> {
  const { id, config, file, size, artifact } = image;
  return { id, config, file, layers, size, blobs: blobsOf(image), ...(artifact !== undefined && { artifact }) };
}

function blobsOf({ id, manifests, configBody, layers }: ResolvedImage): ImageRow['blobs'] {
  const own = manifests.at(-1);
  if (!own || configBody.length === 0) return undefined;
  const { digest, mediaType, body } = own;
  return {
    manifest: { digest, mediaType, size: body.length },
    config: { digest: id, mediaType: 'application/vnd.oci.image.config.v1+json', size: configBody.length },
    layers: layers.map((layer) => ({ digest: layer.digest, size: layer.size, mediaType: layer.mediaType })),
  };
}
