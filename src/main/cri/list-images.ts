import type {
  ImageFilter,
  ListImagesRequest,
  ListImagesResponse,
  StreamImagesRequest,
  StreamImagesResponse,
} from '../../../proto/gen/cri.ts';
import type { ImageRow } from '../../node/images/rows.ts';
import { batches } from './batches.ts';
import type { ServerStream, Unary } from './call.ts';
import { toImage } from './image-view.ts';
import type { CriServices as Node } from './services.ts';

export const listImages =
  (node: Node): Unary<ListImagesRequest, ListImagesResponse> =>
  ({ filter }) => ({ images: matching(node, filter).map((row) => toImage(node, row)) });

/** The same in batches (KEP-5825). */
export const streamImages = (node: Node): ServerStream<StreamImagesRequest, StreamImagesResponse> =>
  async function* ({ filter }) {
    for (const rows of batches(matching(node, filter))) yield { images: rows.map((row) => toImage(node, row)) };
  };

/** A filter names one image, by whatever ImageStatus takes; one that is not there gives an empty list. */
function matching(node: Node, filter: ImageFilter | undefined): ImageRow[] {
  const wanted = filter?.image?.image;
  if (!wanted) return node.images.list();
  const row = node.images.find(wanted);
  return row ? [row] : [];
}
