import type { PullImageRequest, PullImageResponse } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import type { Unary } from './call.ts';
import type { CriServices as Node } from './services.ts';

/** Answers with the image's id, as all verbs name images. */
export const pullImage =
  (node: Node): Unary<PullImageRequest, PullImageResponse> =>
  async ({ image, auth }, call) => {
    if (!image?.image) throw new SluiceError('INVALID_REQUEST', 'image.image is empty: which image?');
    return { imageRef: (await node.pulls.pull({ image: image.image, auth }, call)).id };
  };
