/** What an image archive holds: an OCI layout (image-layout.md), or the output of `docker save`. */
import { readFile } from 'node:fs/promises';
import { SluiceError } from '../../errors.ts';
import type { Archive, Member } from '../../workers/image/read-archive.ts';
import { isObject } from '../../workers/json.ts';
import { digestOf, isDigest, verify } from './digest.ts';
import { parseConfig } from './image-file.ts';
import { type Descriptor, parseManifest } from './manifest.ts';
import { parseReference, tagName } from './reference.ts';
import type { Content } from './registry.ts';
import { type ResolvedImage, readImage } from './resolve.ts';

export interface ArchivedImage {
  /** registry/repository:tag. */
  names: string[];
  /** Of the manifest; undefined where the archive has none. */
  digest?: string;
  image: ResolvedImage;
  /** Files of the layers, bottom first. */
  files: string[];
}

const LAYER_TYPE = 'application/vnd.docker.image.rootfs.diff.tar';
const MANIFEST_TYPE = 'application/vnd.docker.distribution.manifest.v2+json';
const CONFIG_TYPE = 'application/vnd.docker.container.image.v1+json';

/** The images of an archive. `name` names the image of one that has no name. Throws IMAGE_INVALID. */
export async function imagesIn(archive: Archive, name?: string): Promise<ArchivedImage[]> {
  const { 'index.json': index, 'manifest.json': docker } = archive.texts;
  const found = index !== undefined ? await fromLayout(archive, index) : [];
  const saved = docker !== undefined ? await fromDocker(archive, docker) : [];
  if (found.length === 0 && saved.length === 0)
    throw new SluiceError('IMAGE_INVALID', 'the archive holds neither an index.json with images nor a manifest.json');
  // Docker since 25 writes both: the layout has the digests, the other file the names.
  const images = found.length > 0 ? found : saved;
  for (const one of images) {
    if (one.names.length === 0) one.names = saved.find(({ image }) => image.id === one.image.id)?.names ?? [];
    if (one.names.length === 0 && name !== undefined && images.length === 1) one.names = namesOf([name]);
    if (one.names.length === 0)
      throw new SluiceError('INVALID_REQUEST', `the image ${one.image.id} of the archive has no name: give it one`);
  }
  return images;
}

async function fromLayout(archive: Archive, text: string): Promise<ArchivedImage[]> {
  const index = parseManifest(Buffer.from(text), 'application/vnd.oci.image.index.v1+json');
  if (index.kind !== 'index') return [];
  const found: ArchivedImage[] = [];
  const store = {
    manifest: async (digest: string): Promise<Content> => {
      const body = await readBlob(archive, digest);
      return { digest, mediaType: '', body };
    },
    blob: (digest: string) => readBlob(archive, digest),
  };
  for (const descriptor of index.manifests) {
    if (descriptor.annotations?.['vnd.docker.reference.type'] !== undefined) continue;
    const image = await readImage(store, descriptor.digest);
    const files = image.layers.map(({ digest }) => memberOf(archive, blobName(digest)).file);
    found.push({ names: namesIn(descriptor), digest: descriptor.digest, image, files });
  }
  return merged(found);
}

/** One image under several names has an entry of the index for each. */
function merged(images: ArchivedImage[]): ArchivedImage[] {
  const byId = new Map<string, ArchivedImage>();
  for (const one of images) {
    const first = byId.get(one.image.id);
    if (first) first.names = [...new Set([...first.names, ...one.names])];
    else byId.set(one.image.id, one);
  }
  return [...byId.values()];
}

/**
 * The name of an image in an index: containerd's and docker's annotation, or that of the spec where it holds a whole
 * name.
 */
function namesIn({ annotations = {} }: Descriptor): string[] {
  const whole = annotations['io.containerd.image.name'];
  const ref = annotations['org.opencontainers.image.ref.name'];
  return namesOf(
    [whole ?? (ref !== undefined && /[/:]/.test(ref) ? ref : undefined)].filter((text) => text !== undefined),
  );
}

const namesOf = (texts: readonly string[]) => texts.flatMap((text) => tagName(parseReference(text)) ?? []);

async function fromDocker(archive: Archive, text: string): Promise<ArchivedImage[]> {
  let list: unknown;
  try {
    list = JSON.parse(text);
  } catch (cause) {
    throw new SluiceError('IMAGE_INVALID', 'manifest.json of the archive is not JSON', { cause });
  }
  if (!Array.isArray(list)) throw new SluiceError('IMAGE_INVALID', 'manifest.json of the archive is not a list');
  return Promise.all(list.map((item) => dockerImage(archive, item)));
}

async function dockerImage(archive: Archive, item: unknown): Promise<ArchivedImage> {
  const { Config: configName, RepoTags: tags, Layers: layerNames } = isObject(item) ? item : {};
  const isNames = (value: unknown): value is string[] =>
    Array.isArray(value) && value.every((one) => typeof one === 'string');
  if (typeof configName !== 'string' || !isNames(layerNames))
    throw new SluiceError('IMAGE_INVALID', 'manifest.json of the archive names no config or no layers');
  const config = memberOf(archive, configName);
  const body = await readFile(config.file);
  const members = layerNames.map((name) => memberOf(archive, name));
  const layers = members.map(({ digest, size }) => ({ mediaType: LAYER_TYPE, digest, size }));
  const { config: own, ...file } = parseConfig(body, layers);
  const id = digestOf(body);
  const descriptor = { mediaType: CONFIG_TYPE, digest: id, size: body.length };
  const manifest = Buffer.from(
    JSON.stringify({ schemaVersion: 2, mediaType: MANIFEST_TYPE, config: descriptor, layers }),
  );
  const image: ResolvedImage = {
    id,
    config: own ?? {},
    file,
    layers,
    diffIds: file.rootfs.diff_ids,
    size: layers.reduce((sum, { size }) => sum + size, body.length + manifest.length),
    manifests: [{ digest: digestOf(manifest), mediaType: MANIFEST_TYPE, body: manifest }],
    configBody: body,
  };
  return { names: isNames(tags) ? namesOf(tags) : [], image, files: members.map(({ file: path }) => path) };
}

const blobName = (digest: string) => `blobs/${digest.replace(':', '/')}`;

function memberOf({ members }: Archive, name: string): Member {
  const member = Object.hasOwn(members, name) ? members[name] : undefined;
  if (!member) throw new SluiceError('IMAGE_INVALID', `the archive does not hold ${name}`);
  return member;
}

async function readBlob(archive: Archive, digest: string): Promise<Buffer> {
  if (!isDigest(digest)) throw new SluiceError('IMAGE_INVALID', `${digest} is not a digest`);
  const name = blobName(digest);
  const body = await readFile(memberOf(archive, name).file);
  verify(body, digest, `${name} of the archive`);
  return body;
}
