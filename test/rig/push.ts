/** Puts images into a registry over HTTP (OCI distribution spec, push), for tests that need one of their own making. */
import { createHash } from 'node:crypto';
import { gzipSync } from 'node:zlib';

export interface PushedLayer {
  /** The archive, uncompressed. */
  tar: Buffer;
  /** The blob, when it is not simply gzip. */
  blob?: Buffer;
  mediaType?: string;
}

export interface PushedImage {
  layers?: (Buffer | PushedLayer)[];
  /** `config` of the image's config. */
  config?: Record<string, unknown>;
  /** Laid over the rest of the image's config (architecture, os, rootfs). */
  file?: Record<string, unknown>;
  /** Laid over the manifest. */
  manifest?: Record<string, unknown>;
}

export interface Pushed {
  /** Of the manifest. */
  digest: string;
  /** Digest of the config: the image's id. */
  id: string;
  size: number;
}

export const INDEX = 'application/vnd.oci.image.index.v1+json';
export const MANIFEST = 'application/vnd.oci.image.manifest.v1+json';
const CONFIG = 'application/vnd.oci.image.config.v1+json';
const LAYER = 'application/vnd.oci.image.layer.v1.tar+gzip';
const ARCHITECTURES: Record<string, string> = { x64: 'amd64', ia32: '386' };

export const digestOf = (data: Uint8Array) => `sha256:${createHash('sha256').update(data).digest('hex')}`;
export const architecture = ARCHITECTURES[process.arch] ?? process.arch;

/** The parts of an image as a registry stores them: blobs by digest, and the manifest. */
export function buildImage({ layers = [], config = {}, file = {}, manifest = {} }: PushedImage) {
  const blobs = new Map<string, Buffer>();
  const add = (blob: Buffer) => {
    blobs.set(digestOf(blob), blob);
    return { digest: digestOf(blob), size: blob.length };
  };
  const parts = layers.map((layer) => (Buffer.isBuffer(layer) ? { tar: layer } : layer) as PushedLayer);
  const descriptors = parts.map(({ tar, blob, mediaType = LAYER }) => ({ mediaType, ...add(blob ?? gzipSync(tar)) }));
  const json = {
    architecture,
    os: 'linux',
    config,
    rootfs: { type: 'layers', diff_ids: parts.map(({ tar }) => digestOf(tar)) },
    ...file,
  };
  const configBlob = add(Buffer.from(JSON.stringify(json)));
  const body = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: MANIFEST,
      config: { mediaType: CONFIG, ...configBlob },
      layers: descriptors,
      ...manifest,
    }),
  );
  return { blobs, body, id: configBlob.digest };
}

/** Pushes an image as NAME:TAG to a registry (host:port, plain http). */
export async function pushImage(registry: string, reference: string, image: PushedImage): Promise<Pushed> {
  const { name, tag } = split(reference);
  const { blobs, body, id } = buildImage(image);
  for (const [digest, blob] of blobs) await pushBlob(registry, name, digest, blob);
  await pushManifest(registry, name, tag, body, MANIFEST);
  const size = [...blobs.values()].reduce((sum, blob) => sum + blob.length, body.length);
  return { digest: digestOf(body), id, size };
}

/** Pushes an index over images that are there. Returns its digest. */
export async function pushIndex(
  registry: string,
  reference: string,
  images: { digest: string; platform?: Record<string, string> }[],
): Promise<string> {
  const { name, tag } = split(reference);
  const manifests = images.map((image) => ({ mediaType: MANIFEST, size: 1, ...image }));
  const body = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: INDEX, manifests }));
  await pushManifest(registry, name, tag, body, INDEX);
  return digestOf(body);
}

async function pushBlob(registry: string, name: string, digest: string, blob: Buffer): Promise<void> {
  const base = `http://${registry}/v2/${name}/blobs`;
  if ((await fetch(`${base}/${digest}`, { method: 'HEAD' })).ok) return;
  const begun = await fetch(`${base}/uploads/`, { method: 'POST' });
  await begun.arrayBuffer();
  const url = new URL(begun.headers.get('location') ?? '', base);
  url.searchParams.set('digest', digest);
  await ok(
    fetch(url, {
      method: 'PUT',
      body: new Uint8Array(blob),
      headers: { 'content-type': 'application/octet-stream' },
    }),
  );
}

async function pushManifest(registry: string, name: string, tag: string, body: Buffer, type: string): Promise<void> {
  const url = `http://${registry}/v2/${name}/manifests/${tag}`;
  await ok(fetch(url, { method: 'PUT', body: new Uint8Array(body), headers: { 'content-type': type } }));
}

async function ok(answer: Promise<Response>): Promise<void> {
  const response = await answer;
  const words = await response.text();
  if (!response.ok) throw new Error(`${response.url}: ${response.status} ${words}`);
}

function split(reference: string): { name: string; tag: string } {
  const colon = reference.lastIndexOf(':');
  return colon < 0
    ? { name: reference, tag: 'latest' }
    : { name: reference.slice(0, colon), tag: reference.slice(colon + 1) };
}
