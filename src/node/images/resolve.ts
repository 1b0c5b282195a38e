import { SluiceError } from '../../errors.ts';
import type { ImageConfig } from '../oci/image-config.ts';
import { digestOf } from './digest.ts';
import { type ImageFile, parseConfig } from './image-file.ts';
import { type Descriptor, type Manifest, parseManifest } from './manifest.ts';
import { candidates, fits, noMatch } from './platform.ts';
import type { Reference } from './reference.ts';
import type { Content, Repository } from './registry.ts';
import type { ImageRow } from './rows.ts';

/** What a reference stands for in its registry. */
export interface Resolved {
  reference: Reference;
  repository: Repository;
  /** Of the manifest, or of the index where there is one. */
  digest: string;
  /** The image is on the node already; its manifest was not read. */
  present?: ImageRow;
  image?: ResolvedImage;
}

export interface ResolvedImage {
  id: string;
  config: ImageConfig;
  file: Omit<ImageFile, 'config'>;
  /** Bottom first, as are the diffIDs. */
  layers: ResolvedLayer[];
  diffIds: string[];
  /** Bytes of manifests, config and layers. */
  size: number;
  /** The type of an artifact; undefined for container images. */
  artifact?: string;
  /** The manifests that led to the image, the outermost first. */
  manifests: Content[];
  /** The config as it came. */
  configBody: Buffer;
}

/** `name`: the layer is the file of an artifact with this path, not an archive. */
export type ResolvedLayer = Descriptor & { name?: string };

/** Indexes in indexes, and manifests read in search of the right one. */
const MAX_DEPTH = 4;
const MAX_READ = 16;

/**
 * Asks the registry what the reference stands for; unless an image with that digest is `known` here, also for its
 * manifest and config, all verified. The registry is asked for a known digest too: who could not pull a private image
 * does not get it because it is on the node (AlwaysPullImages). Throws IMAGE_NOT_FOUND, IMAGE_INVALID, REGISTRY_DENIED,
 * REGISTRY_UNAVAILABLE.
 */
export async function resolveImage(
  repository: Repository,
  known: (digest: string) => ImageRow | undefined,
): Promise<Resolved> {
  const wanted = repository.reference.digest;
  const { digest, content } =
    wanted !== undefined && !known(wanted) ? { digest: wanted, content: undefined } : await repository.resolve();
  const base = { reference: repository.reference, repository, digest };
  const present = known(digest);
  return present ? { ...base, present } : { ...base, image: await readImage(repository, digest, content) };
}

/** Manifest and config behind a digest. */
export async function readImage(
  repository: Pick<Repository, 'manifest' | 'blob'>,
  digest: string,
  content?: Content,
): Promise<ResolvedImage> {
  const found = content ?? (await repository.manifest(digest));
  const search: Search = { repository, read: 0 };
  const manifest = parseManifest(found.body, found.mediaType);
  if (manifest.kind !== 'index') return readOne(search, { manifest, content: found, path: [] });
  return readIndex(search, { manifests: manifest.manifests, path: [found] });
}

interface Search {
  repository: Pick<Repository, 'manifest' | 'blob'>;
  read: number;
}

/** The first image of an index that is for this machine; an index in it that has none is passed over. */
async function readIndex(
  search: Search,
  { manifests, path }: { manifests: readonly Descriptor[]; path: Content[] },
): Promise<ResolvedImage> {
  if (path.length > MAX_DEPTH) throw invalid(`indexes are nested more than ${MAX_DEPTH} deep`);
  const list = candidates(manifests.filter((one) => !isAttestation(one)));
  let mislabelled: ResolvedImage | undefined;
  for (const candidate of list) {
    if (search.read++ >= MAX_READ) break;
    const content = await search.repository.manifest(candidate.digest);
    const manifest = parseManifest(content.body, content.mediaType || candidate.mediaType);
    if (manifest.kind === 'index') {
      try {
        return await readIndex(search, { manifests: manifest.manifests, path: [...path, content] });
      } catch (error) {
        if (!(error instanceof SluiceError && error.message.includes('no match for platform'))) throw error;
        continue;
      }
    }
    const image = await readOne(search, { manifest, content, path });
    // Where the index names the platform, it decides; else the image's own config does.
    if (candidate.platform || image.artifact !== undefined || fits(image.file) === 'yes') return image;
    if (list.length === 1) mislabelled = image;
  }
  if (mislabelled) return mislabelled;
  throw noMatch(manifests);
}

/** BuildKit puts attestations beside the images, for the platform unknown/unknown. */
function isAttestation({ annotations, platform }: Descriptor): boolean {
  return annotations?.['vnd.docker.reference.type'] !== undefined || platform?.os === 'unknown';
}

async function readOne(
  { repository }: Search,
  { manifest, content, path }: { manifest: Exclude<Manifest, { kind: 'index' }>; content: Content; path: Content[] },
): Promise<ResolvedImage> {
  const manifests = [...path, content];
  const manifestBytes = manifests.reduce((sum, { body }) => sum + body.length, 0);
  if (manifest.kind === 'artifact') {
    const { files, type } = manifest;
    const diffIds = files.map(({ name, digest }) => digestOf(Buffer.from(`artifact file ${name} ${digest}`)));
    return {
      id: content.digest,
      config: {},
      file: { rootfs: { type: 'layers', diff_ids: diffIds } },
      layers: files,
      diffIds,
      size: files.reduce((sum, { size }) => sum + size, manifestBytes),
      artifact: type,
      manifests,
      configBody: Buffer.alloc(0),
    };
  }
  const { config: descriptor, layers } = manifest;
  const body = await repository.blob(descriptor.digest);
  const { config, ...file } = parseConfig(body, layers);
  if (fits(file) === 'no') throw invalid(`the image is for ${file.os}, not for linux`);
  return {
    id: descriptor.digest,
    config: config ?? {},
    file,
    layers,
    diffIds: file.rootfs.diff_ids,
    size: layers.reduce((sum, layer) => sum + layer.size, manifestBytes + body.length),
    manifests,
    configBody: body,
  };
}

const invalid = (message: string) => new SluiceError('IMAGE_INVALID', message);
