/** Manifests, indexes and configs: OCI image spec 1.1 and docker's schema 2, and which image of an index is for this machine. */
import { readFileSync } from 'node:fs';
import { SluiceError } from '../../errors.ts';
import { isObject } from '../../workers/json.ts';
import type { ImageConfig } from '../oci/image-config.ts';
import { isDigest } from './reference.ts';

export interface Descriptor {
  mediaType: string;
  digest: string;
  size: number;
  platform?: Platform;
}

export interface Platform {
  os: string;
  architecture: string;
  variant?: string;
}

/** The image configuration (`application/vnd.oci.image.config.v1+json`); what is not checked here stays as it came. */
export interface ImageFile {
  architecture?: string;
  os?: string;
  variant?: string;
  created?: string;
  config?: ImageConfig | null;
  rootfs: { type: string; diff_ids: string[] };
}

const OCI_INDEX = 'application/vnd.oci.image.index.v1+json';
const OCI_MANIFEST = 'application/vnd.oci.image.manifest.v1+json';
const DOCKER_LIST = 'application/vnd.docker.distribution.manifest.list.v2+json';
const DOCKER_MANIFEST = 'application/vnd.docker.distribution.manifest.v2+json';
export const MANIFEST_TYPES = [DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX];

const CONFIG_TYPES = ['application/vnd.oci.image.config.v1+json', 'application/vnd.docker.container.image.v1+json'];
const LAYER =
  /^application\/vnd\.(?:oci\.image\.layer\.(?:nondistributable\.)?v1\.tar(?:\+(?:gzip|zstd))?|docker\.image\.rootfs\.(?:foreign\.)?diff\.tar(?:\.(?:gzip|zstd))?)$/;
/** The kernel's overlay takes at most 500; an image this long is a mistake or an attack. */
const MAX_LAYERS = 500;

export type Manifest =
  | { kind: 'index'; manifests: Descriptor[] }
  | { kind: 'image'; config: Descriptor; layers: Descriptor[] };

/** Reads a manifest or index; `mediaType` is what the registry called it. Throws IMAGE_INVALID. */
export function parseManifest(body: Buffer, mediaType: string): Manifest {
  const json = parseJson(body, 'the manifest');
  const type = typeof json.mediaType === 'string' && json.mediaType !== '' ? json.mediaType : mediaType;
  if (json.schemaVersion === 1 || type.includes('distribution.manifest.v1+')) {
    throw invalid('the manifest is of docker schema 1, which no builder has made for years and Sluice does not read');
  }
  if (type === OCI_INDEX || type === DOCKER_LIST || (!MANIFEST_TYPES.includes(type) && Array.isArray(json.manifests))) {
    return {
      kind: 'index',
      manifests: list(json.manifests, 'manifests').map((item) => descriptor(item, 'a manifest')),
    };
  }
  if (json.config === undefined)
    throw invalid(`the manifest (${type || 'no media type'}) is neither an image nor an index`);
  const config = descriptor(json.config, 'the config');
  if (!CONFIG_TYPES.includes(config.mediaType))
    throw invalid(`the manifest is of an artifact (${config.mediaType}), not of a container image`);
  const layers = list(json.layers, 'layers').map((item) => descriptor(item, 'a layer'));
  if (layers.length > MAX_LAYERS) throw invalid(`the image has ${layers.length} layers, more than ${MAX_LAYERS}`);
  for (const { mediaType: layerType, digest } of layers) {
    if (layerType.endsWith('+encrypted'))
      throw invalid(`layer ${digest} is encrypted (${layerType}); Sluice has no keys to decrypt it with`);
    if (!LAYER.test(layerType)) throw invalid(`layer ${digest} is of the unknown type ${layerType}`);
  }
  return { kind: 'image', config, layers };
}

/** Reads an image's config and checks it against the manifest's layers. Throws IMAGE_INVALID. */
export function parseConfig(body: Buffer, layers: readonly Descriptor[]): ImageFile {
  const json = parseJson(body, 'the image config') as Partial<ImageFile>;
  const diffIds = json.rootfs?.diff_ids ?? [];
  if (!Array.isArray(diffIds) || !diffIds.every((id) => typeof id === 'string' && isDigest(id)))
    throw invalid('rootfs.diff_ids of the image config is no list of digests');
  if (diffIds.length !== layers.length)
    throw invalid(`the manifest has ${layers.length} layers and the config ${diffIds.length} diffIDs`);
  return { ...json, rootfs: { type: 'layers', diff_ids: diffIds } };
}

/** The manifest of an index that fits this machine best. Throws IMAGE_INVALID when none does. */
export function choosePlatform(
  manifests: readonly Descriptor[],
  host: readonly Platform[] = hostPlatforms(),
): Descriptor {
  for (const wanted of host) {
    const found = manifests.find(({ platform }) => platform && samePlatform(platform, wanted));
    if (found) return found;
  }
  const unnamed = manifests.filter(({ platform }) => platform === undefined);
  const [only] = unnamed;
  if (only && unnamed.length === 1) return only;
  const [first] = host;
  const there = manifests.flatMap(({ platform }) => (platform ? describe(platform) : []));
  throw invalid(
    `no match for platform in manifest: ${first && describe(first)} is not among ${there.join(', ') || 'none'}`,
  );
}

/** A lone image for another kind of machine would only fail later, and less clearly. */
export function checkPlatform(
  { os, architecture, variant }: ImageFile,
  host: readonly Platform[] = hostPlatforms(),
): void {
  if (os && os !== 'linux') throw invalid(`the image is for ${os}, not for linux`);
  if (!architecture || host.some((own) => own.architecture === normal({ os: 'linux', architecture }).architecture))
    return;
  throw invalid(`the image is for ${describe({ os: 'linux', architecture, variant })}, which this machine is not`);
}

let detected: readonly Platform[] | undefined;

/** What this machine runs, best first. */
export function hostPlatforms(): readonly Platform[] {
  detected ??= platformsOf(process.arch, process.arch === 'x64' ? readFileSync('/proc/cpuinfo', 'utf8') : '');
  return detected;
}

/** From Node's name of the architecture and, for x64, the flags in /proc/cpuinfo (levels of the x86-64 psABI). */
export function platformsOf(arch: string, cpuinfo: string): Platform[] {
  const of = (architecture: string, ...variants: (string | undefined)[]) =>
    variants.map((variant) => ({ os: 'linux', architecture, variant }));
  if (arch === 'x64') {
    const flags = new Set(/^flags\s*:(.*)$/m.exec(cpuinfo)?.[1]?.split(' '));
    const has = (names: string) => names.split(' ').every((name) => flags.has(name));
    const levels: (string | undefined)[] = ['v1', undefined];
    if (has('cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3')) {
      levels.unshift('v2');
      if (has('avx avx2 bmi1 bmi2 f16c fma abm movbe xsave')) {
        levels.unshift('v3');
        if (has('avx512f avx512bw avx512cd avx512dq avx512vl')) levels.unshift('v4');
      }
    }
    return [...of('amd64', ...levels), ...of('386', undefined)];
  }
  if (arch === 'arm64') return [...of('arm64', 'v8', undefined), ...of('arm', 'v8', 'v7', 'v6', 'v5', undefined)];
  if (arch === 'arm') return of('arm', 'v7', 'v6', 'v5', undefined);
  const names: Record<string, string> = { ia32: '386', ppc64: 'ppc64le', loong64: 'loong64' };
  return of(names[arch] ?? arch, undefined);
}

function samePlatform(platform: Platform, wanted: Platform): boolean {
  const { os, architecture, variant } = normal(platform);
  const own = normal(wanted);
  return os === own.os && architecture === own.architecture && variant === own.variant;
}

/** One spelling for each: no variant is amd64's v1, arm64's v8 and arm's v7. */
function normal({ os, architecture, variant }: Platform): Platform {
  const names: Record<string, string> = {
    x86_64: 'amd64',
    'x86-64': 'amd64',
    aarch64: 'arm64',
    i386: '386',
    armhf: 'arm',
  };
  const name = names[architecture.toLowerCase()] ?? architecture.toLowerCase();
  const usual: Record<string, string> = { amd64: 'v1', arm64: 'v8', arm: 'v7' };
  const numbered = variant && /^\d/.test(variant) ? `v${variant}` : variant;
  return { os: os.toLowerCase(), architecture: name, variant: numbered || usual[name] };
}

const describe = ({ os, architecture, variant }: Platform) => [os, architecture, variant].filter(Boolean).join('/');

function descriptor(value: unknown, what: string): Descriptor {
  if (!isObject(value)) throw invalid(`${what} of the manifest is no descriptor`);
  const { mediaType, digest, size, platform } = value;
  if (typeof digest !== 'string' || !isDigest(digest)) throw invalid(`${what} of the manifest has no usable digest`);
  if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0)
    throw invalid(`${what} of the manifest (${digest}) has no usable size`);
  return {
    mediaType: typeof mediaType === 'string' ? mediaType : '',
    digest,
    size,
    platform:
      isObject(platform) && typeof platform.os === 'string' && typeof platform.architecture === 'string'
        ? {
            os: platform.os,
            architecture: platform.architecture,
            variant: typeof platform.variant === 'string' ? platform.variant : undefined,
          }
        : undefined,
  };
}

function list(value: unknown, what: string): unknown[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) throw invalid(`${what} of the manifest is no list`);
  return value;
}

function parseJson(body: Buffer, what: string): Record<string, unknown> {
  let json: unknown;
  try {
    json = JSON.parse(body.toString('utf8'));
  } catch (cause) {
    throw invalid(`${what} is no JSON`, cause);
  }
  if (!isObject(json)) throw invalid(`${what} is no JSON object`);
  return json;
}

const invalid = (message: string, cause?: unknown) => new SluiceError('IMAGE_INVALID', message, { cause });
