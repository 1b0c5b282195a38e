/** Manifests and indexes: OCI image spec 1.1 and docker's schema 2. */
import { SluiceError } from '../../errors.ts';
import { isObject, type Json, withNames } from '../../workers/json.ts';
import { isDigest } from './digest.ts';
import type { Platform } from './platform.ts';

export interface Descriptor {
  mediaType: string;
  digest: string;
  size: number;
  platform?: Platform;
  /** Other places of a foreign layer. */
  urls?: string[];
  annotations?: Record<string, string>;
}

const OCI_INDEX = 'application/vnd.oci.image.index.v1+json';
const OCI_MANIFEST = 'application/vnd.oci.image.manifest.v1+json';
const DOCKER_LIST = 'application/vnd.docker.distribution.manifest.list.v2+json';
const DOCKER_MANIFEST = 'application/vnd.docker.distribution.manifest.v2+json';
export const MANIFEST_TYPES = [DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX];

const CONFIG_TYPES = ['application/vnd.oci.image.config.v1+json', 'application/vnd.docker.container.image.v1+json'];
const LAYER =
  /^application\/vnd\.(?:oci\.image\.layer\.(?:nondistributable\.)?v1\.tar(?:\+(?:gzip|zstd))?|docker\.image\.rootfs\.(?:foreign\.)?diff\.tar(?:\.(?:gzip|zstd))?)$/;
const MANIFEST = ['schemaVersion', 'mediaType', 'artifactType', 'config', 'layers', 'manifests'];
const DESCRIPTOR = ['mediaType', 'digest', 'size', 'platform', 'urls', 'annotations'];
const PLATFORM = ['os', 'architecture', 'variant'];
/** The kernel's overlay takes at most 500 lower folders. */
const MAX_LAYERS = 500;
const MAX_MANIFESTS = 1000;
/** The annotation with the name of an artifact's file (OCI image spec, annotations.md). */
const TITLE = 'org.opencontainers.image.title';

export type Manifest =
  | { kind: 'index'; manifests: Descriptor[] }
  | { kind: 'image'; config: Descriptor; layers: Descriptor[] }
  /** Content that is not a container image (models, charts): each layer is one file. `type` says what it is. */
  | { kind: 'artifact'; type: string; config: Descriptor; files: (Descriptor & { name: string })[] };

/** Reads a manifest or index; `mediaType` is the Content-Type with which it came. Throws IMAGE_INVALID. */
export function parseManifest(body: Buffer, mediaType: string): Manifest {
  const json = withNames(parseJson(body, 'the manifest'), MANIFEST);
  const type = typeof json.mediaType === 'string' && json.mediaType !== '' ? json.mediaType : mediaType;
  if (json.schemaVersion === 1 || type.includes('distribution.manifest.v1+')) {
    throw invalid('the manifest is of docker schema 1, which no builder has made for years and Sluice does not read');
  }
  const isIndex = type === OCI_INDEX || type === DOCKER_LIST;
  // A text that is both, by its fields, could mean different images to different programs (CVE-2021-41190).
  if (isFilled(json.manifests) && (isFilled(json.layers) || json.config !== undefined))
    throw invalid('the manifest has the fields of an image and of an index');
  if (isIndex || (!MANIFEST_TYPES.includes(type) && Array.isArray(json.manifests))) {
    if (isFilled(json.layers) || isFilled(json.config)) throw invalid(`the index (${type}) has the fields of an image`);
    const manifests = list(json.manifests, 'manifests').map((item) => descriptor(item, 'a manifest'));
    if (manifests.length > MAX_MANIFESTS)
      throw invalid(`the index has ${manifests.length} manifests, more than ${MAX_MANIFESTS}`);
    return { kind: 'index', manifests };
  }
  if (json.config === undefined && json.layers === undefined)
    throw invalid(`the manifest (${type || 'no media type'}) is neither an image nor an index`);
  if (json.config === undefined) throw invalid('the manifest has no config');
  const config = descriptor(json.config, 'the config');
  const layers = list(json.layers, 'layers').map((item) => descriptor(item, 'a layer'));
  if (layers.length > MAX_LAYERS) throw invalid(`the image has ${layers.length} layers, more than ${MAX_LAYERS}`);
  if (!CONFIG_TYPES.includes(config.mediaType)) {
    const artifactType = typeof json.artifactType === 'string' ? json.artifactType : '';
    return { kind: 'artifact', type: artifactType || config.mediaType, config, files: layers.map(fileOf) };
  }
  for (const { mediaType: layerType, digest } of layers) {
    if (layerType.endsWith('+encrypted'))
      throw invalid(`layer ${digest} is encrypted (${layerType}); Sluice has no keys to decrypt it with`);
    if (!LAYER.test(layerType)) throw invalid(`layer ${digest} is of the unknown type ${layerType}`);
  }
  return { kind: 'image', config, layers };
}

const isFilled = (value: unknown) => (Array.isArray(value) ? value.length > 0 : value !== undefined && value !== null);

/**
 * The name of an artifact's file: its title, which may have folders, or its digest. Throws IMAGE_INVALID for a name
 * that leads elsewhere.
 */
function fileOf(layer: Descriptor): Descriptor & { name: string } {
  const name = layer.annotations?.[TITLE] ?? layer.digest.replace(':', '-');
  const parts = name.split('/');
  const isSafe = parts.every((part) => part !== '' && part !== '.' && part !== '..') && !name.includes('\0');
  if (!isSafe) throw invalid(`the artifact has a file with the name ${JSON.stringify(name)}`);
  return { ...layer, name };
}

function descriptor(value: unknown, what: string): Descriptor {
  if (!isObject(value)) throw invalid(`${what} of the manifest is not a descriptor`);
  const { mediaType, digest, size, platform, urls, annotations } = withNames(value, DESCRIPTOR);
  if (typeof digest !== 'string' || !isDigest(digest)) throw invalid(`${what} of the manifest has no usable digest`);
  if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0)
    throw invalid(`${what} of the manifest (${digest}) has no usable size`);
  return {
    mediaType: typeof mediaType === 'string' ? mediaType : '',
    digest,
    size,
    platform: platformIn(platform),
    ...(Array.isArray(urls) && { urls: urls.filter((url) => typeof url === 'string') }),
    ...(isObject(annotations) && { annotations: textsIn(annotations) }),
  };
}

function platformIn(platform: unknown): Platform | undefined {
  if (!isObject(platform)) return undefined;
  const { os, architecture, variant } = withNames(platform, PLATFORM);
  if (typeof os !== 'string' || typeof architecture !== 'string') return undefined;
  return { os, architecture, variant: typeof variant === 'string' ? variant : undefined };
}

function textsIn(json: Json): Record<string, string> {
  const entries = Object.entries(json).filter((entry): entry is [string, string] => typeof entry[1] === 'string');
  return Object.fromEntries(entries);
}

function list(value: unknown, what: string): unknown[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) throw invalid(`${what} of the manifest is not a list`);
  return value;
}

/** Throws IMAGE_INVALID; `what` begins the message. */
export function parseJson(body: Buffer, what: string): Json {
  let json: unknown;
  try {
    json = JSON.parse(body.toString('utf8'));
  } catch (cause) {
    const start = body.toString('utf8', 0, 60).replace(/\s+/g, ' ').trim();
    throw invalid(`${what} is not JSON (it begins with ${JSON.stringify(start)})`, cause);
  }
  if (!isObject(json)) throw invalid(`${what} is not a JSON object`);
  return json;
}

const invalid = (message: string, cause?: unknown) => new SluiceError('IMAGE_INVALID', message, { cause });
