import type { RemoveImageRequest, RemoveImageResponse } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import type { Unary } from './call.ts';
import type { CriServices as Node } from './services.ts';

/** Removes an image under all its names, whichever one was given. One that is not there is fine. */
export const removeImage =
  (node: Node): Unary<RemoveImageRequest, RemoveImageResponse> =>
  async ({ image }) => {
    if (!image?.image) throw new SluiceError('INVALID_REQUEST', 'image.image is empty: which image?');
    const row = node.images.find(image.image);
    if (row) await node.images.remove(row);
    return {};
  };
