import type { ImageStatusRequest, ImageStatusResponse } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import { chainIdOf } from '../../node/images/chain.ts';
import type { ImageRow } from '../../node/images/rows.ts';
import { noInfo, type Unary } from './call.ts';
import { toImage } from './image-view.ts';
import type { CriServices as Node } from './services.ts';

/** An image that is not there is no error: the answer is empty. */
export const imageStatus =
  (node: Node): Unary<ImageStatusRequest, ImageStatusResponse> =>
  ({ image, verbose }) => {
    if (!image?.image) throw new SluiceError('INVALID_REQUEST', 'image.image is empty: which image?');
    const row = node.images.find(image.image);
    if (!row) return { image: undefined, info: noInfo() };
    return { image: toImage(node, row), info: verbose ? { info: JSON.stringify(inspect(row)) } : noInfo() };
  };

/** The keys that users of `crictl inspecti` know from containerd. */
function inspect({ config, file }: ImageRow): object {
  return { chainID: chainIdOf(file.rootfs.diff_ids), imageSpec: { ...file, config } };
}
