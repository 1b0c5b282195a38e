import { SluiceError } from '../../errors.ts';
import type { ImageConfig } from '../oci/image-config.ts';
import {
  checkPlatform,
  choosePlatform,
  type Descriptor,
  type ImageFile,
  type Manifest,
  parseConfig,
  parseManifest,
} from './platform.ts';
import type { Reference } from './reference.ts';
import type { Content, Repository } from './registry.ts';
import type { ImageRow } from './rows.ts';

/** What a reference stands for in its registry. */
export interface Resolved {
  reference: Reference;
  repository: Repository;
  /** Of the manifest, or of the index where there is one. */
  digest: string;
  /** The image is on the node already; nothing more was asked. */
  present?: ImageRow;
  image?: ResolvedImage;
}

export interface ResolvedImage {
  id: string;
  config: ImageConfig;
  file: Omit<ImageFile, 'config'>;
  /** Bottom first, as are the diffIDs. */
  layers: Descriptor[];
  diffIds: string[];
  /** Bytes of manifests, config and layers. */
  size: number;
}

/**
 * Asks the registry what the reference stands for; unless an image with that digest is `known` here, its manifest and config as
 * well, all verified. The registry is asked for a known digest too: a private image that is on the node is for nobody who could not
 * pull it (AlwaysPullImages). Throws IMAGE_NOT_FOUND, IMAGE_INVALID, REGISTRY_DENIED, REGISTRY_UNAVAILABLE.
 */
export async function resolveImage(
  repository: Repository,
  known: (digest: string) => ImageRow | undefined,
): Promise<Resolved> {
  const told = repository.reference.digest;
  const { digest, content } =
    told !== undefined && !known(told) ? { digest: told, content: undefined } : await repository.resolve();
  const base = { reference: repository.reference, repository, digest };
  const present = known(digest);
  return present ? { ...base, present } : { ...base, image: await readImage(repository, digest, content) };
}

/** Manifest and config behind a digest. */
export async function readImage(repository: Repository, digest: string, content?: Content): Promise<ResolvedImage> {
  let found = content ?? (await repository.manifest(digest));
  let size = found.body.length;
  let manifest: Manifest = parseManifest(found.body, found.mediaType);
  const viaIndex = manifest.kind === 'index';
  if (manifest.kind === 'index') {
    found = await repository.manifest(choosePlatform(manifest.manifests).digest);
    size += found.body.length;
    manifest = parseManifest(found.body, found.mediaType);
    if (manifest.kind === 'index') throw new SluiceError('IMAGE_INVALID', 'the index leads to another index');
  }
  const { config: descriptor, layers } = manifest;
  const body = await repository.blob(descriptor.digest);
  const { config, ...file } = parseConfig(body, layers);
  if (!viaIndex) checkPlatform(file);
  return {
    id: descriptor.digest,
    config: config ?? {},
    file,
    layers,
    diffIds: file.rootfs.diff_ids,
    size: layers.reduce((sum, layer) => sum + layer.size, size + body.length),
  };
}
