import type { Image } from '../../../proto/gen/cri.ts';
import type { ImageRow } from '../../node/images/rows.ts';
import type { CriServices as Node } from './services.ts';

/** An image as CRI shows it. */
export function toImage(node: Node, row: ImageRow): Image {
  const isDigest = (name: string) => name.includes('@');
  return {
    id: row.id,
    repoTags: row.names.filter((name) => !isDigest(name)),
    repoDigests: row.names.filter(isDigest),
    size: BigInt(row.size),
    ...userOf(row.config.User ?? ''),
    spec: { image: '', annotations: {}, userSpecifiedImage: '', runtimeHandler: '', imageRef: '' },
    pinned: node.images.isPinned(row),
  };
}

/** The user of the image's config, without its group: a number or a name; none is root. kubelet's runAsNonRoot asks for it. */
export function userOf(user: string): Pick<Image, 'uid' | 'username'> {
  const [name = ''] = user.split(':');
  if (name === '') return { uid: { value: 0n }, username: '' };
  return /^\d+$/.test(name) ? { uid: { value: BigInt(name) }, username: '' } : { uid: undefined, username: name };
}
